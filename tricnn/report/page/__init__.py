"""``tricnn report``: what the compiler did to a network, as one page that needs nothing but a browser."""
