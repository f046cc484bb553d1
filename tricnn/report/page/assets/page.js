// What the page does when it may run scripts: a panel for the kernel that was clicked, finding by name, deep links, keys.
// Without scripts all of it is there as tables, and links open what they point at.
"use strict";
(() => {
  const panel = document.getElementById("panel");
  const find = document.getElementById("find");
  const box = find.querySelector("input");
  const kernels = [...document.querySelectorAll("details.kernel")];
  const byName = new Map(kernels.map((k) => [k.dataset.name, k]));
  const byId = new Map(kernels.map((k) => [k.dataset.name.split("_")[0], k]));
  let shown = null; // the kernel in the panel
  let place = null; // what stands where it was

  const button = (text, title, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.title = title;
    made.addEventListener("click", act);
    return made;
  };

  function open(element) {
    for (let e = element; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
  }

  // The code of a kernel's functions stands once in the page; the panel shows a copy.
  function code(kernel) {
    const into = kernel.querySelector(".code-of");
    if (into.childElementCount) return;
    // Its lines are marked by the layers of the first kernel that has it: "function 3:4 4:5;" says which are this one's.
    const own = new Map();
    for (const part of (into.dataset.nodes || "").split(";")) {
      const [name, ...pairs] = part.split(" ");
      own.set(name, Object.fromEntries(pairs.map((pair) => pair.split(":"))));
    }
    for (const name of into.dataset.functions.split(" ")) {
      const source = document.getElementById("source:" + name);
      if (!source) continue;
      const title = document.createElement("h3");
      title.textContent = name;
      const copy = source.querySelector("pre").cloneNode(true);
      for (const line of copy.querySelectorAll("[data-n]")) line.dataset.n = (own.get(name) || {})[line.dataset.n] || line.dataset.n;
      into.append(title, copy);
      machineCode(name, title, copy);
    }
  }

  // Machine code lies in the page compressed; a button inflates it and puts it beside the source and the templates.
  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  function machineCode(name, title, source) {
    const carried = document.getElementById("machine:" + name);
    if (!carried) return;
    title.append(" ", button("machine code", "the instructions beside the lines that they came from", async (event) => {
      event.currentTarget.remove();
      const { chains, rows } = await inflated(carried.textContent);
      const both = document.createElement("div"), left = document.createElement("div"), right = document.createElement("pre");
      both.className = "both"; right.className = "machine"; left.className = "lines";
      source.replaceWith(both); left.append(source); both.append(left, right);
      const lines = new Map([[name, [...source.querySelectorAll("b")]]]), of = new Map(); // place -> its instructions
      for (const template of new Set(chains.flat().map(([block]) => block))) {
        if (template === name) continue;
        const text = document.getElementById("template:" + template), head = document.createElement("h3");
        if (!text) continue;
        const copy = text.querySelector("pre").cloneNode(true);
        head.textContent = template; left.append(head, copy);
        lines.set(template, [...copy.querySelectorAll("b")]);
      }
      const codes = rows.map(([chain, text]) => {
        const code = document.createElement("b");
        code.textContent = text;
        code.places = (chains[chain] || []).map(([block, line]) => (lines.get(block) || [])[line]).filter(Boolean);
        for (const line of code.places) of.set(line, [...(of.get(line) || []), code]);
        return code;
      });
      for (const code of codes) right.append(code, "\n");
      for (const line of of.keys()) line.classList.add("has-code");
      const light = (chosen, scroll) => {
        for (const e of both.querySelectorAll(".from")) e.classList.remove("from");
        for (const e of chosen) e.classList.add("from");
        const first = chosen.find((e) => scroll.contains(e));
        if (first) scroll.scrollTop += first.getBoundingClientRect().top - scroll.getBoundingClientRect().top - scroll.clientHeight / 3;
      };
      left.addEventListener("click", (event) => {
        const line = event.target.closest("b");
        if (of.has(line)) light([line, ...of.get(line)], right);
      });
      right.addEventListener("click", (event) => {
        const code = event.target.closest("b");
        if (code && code.places) light([code, ...code.places], left);
      });
      document.body.classList.add("wide");
    }));
  }

  function close() {
    if (!shown) return;
    shown.querySelector(".code-of").replaceChildren();
    shown.open = false;
    place.replaceWith(shown);
    shown = place = null;
    panel.replaceChildren();
    panel.hidden = true;
    document.body.classList.remove("reading", "wide");
    mark(null);
  }

  function mark(name) {
    for (const e of document.querySelectorAll(".current")) e.classList.remove("current");
    const number = name && name.split("_")[0];
    if (name) for (const e of document.querySelectorAll(`main [data-kernels~="${CSS.escape(number)}"]`)) e.classList.add("current");
  }

  function show(kernel) {
    if (kernel === shown) return;
    close();
    place = document.createElement("div");
    kernel.replaceWith(place);
    const bar = document.createElement("div");
    bar.className = "bar";
    const title = document.createElement("span");
    title.className = "title name";
    title.textContent = kernel.dataset.name;
    bar.append(title, button("‹", "the kernel before (k)", () => step(-1)), button("›", "the next kernel (j)", () => step(1)),
      button("✕", "close (Esc)", leave));
    panel.append(bar, kernel);
    kernel.open = true;
    code(kernel);
    panel.hidden = false;
    document.body.classList.add("reading");
    panel.scrollTop = 0;
    shown = kernel;
    mark(kernel.dataset.name);
  }

  function leave() {
    close();
    history.replaceState(null, "", location.pathname + location.search);
  }

  // A link followed by a script does not move the page: the panel is beside what was clicked.
  function go(kernel) {
    history.pushState(null, "", "#" + kernel.id);
    show(kernel);
  }

  function step(by) {
    const next = kernels[kernels.indexOf(shown) + by];
    if (next) go(next);
  }

  function kernelOf(id) {
    const target = document.getElementById(id);
    return target ? target.closest("details.kernel") : byName.get(id) || byId.get(id);
  }

  // #k29, #k29_layer3_1_conv1, #layer1.0.conv1, #layer1.0, #at:network
  function follow() {
    const name = decodeURIComponent(location.hash.slice(1));
    if (!name) return;
    const kernel = kernelOf(name);
    if (kernel) show(kernel);
    const number = kernel && kernel.dataset.name.split("_")[0];
    const boxes = number ? [...document.querySelectorAll(`svg.net a[data-kernels~="${CSS.escape(number)}"]`)] : [];
    const target = kernel ? boxes.find((a) => a.dataset.kernels.startsWith(number)) || boxes[0] : document.getElementById(name);
    if (!target) return;
    open(target);
    target.scrollIntoView({ block: kernel || target.tagName === "TR" ? "center" : "start" });
  }

  function search(text) {
    const name = text.trim();
    if (!name) return false;
    const named = (id) => document.getElementById(id);
    const kernel = byName.get(name) || byId.get(name);
    const hit = kernel || named(name) || kernels.find((k) => k.dataset.name.includes(name)) ||
      [...document.querySelectorAll("table.layers tr[id]")].find((row) => row.id.includes(name));
    box.setCustomValidity(hit ? "" : "no kernel or layer has this in its name");
    if (!hit) return box.reportValidity(), false;
    history.pushState(null, "", "#" + hit.id);
    follow();
    return true;
  }

  // Pointing at a layer in the panel marks the lines that it became, and at a line its layer.
  panel.addEventListener("mouseover", (event) => {
    const over = event.target.closest && event.target.closest("[data-n]");
    for (const e of panel.querySelectorAll(".lit")) e.classList.remove("lit");
    if (over) for (const e of panel.querySelectorAll(`[data-n="${over.dataset.n}"]`)) e.classList.add("lit");
  });

  find.hidden = false;
  find.addEventListener("submit", (event) => {
    event.preventDefault();
    if (search(box.value)) box.blur();
  });
  box.addEventListener("input", () => box.setCustomValidity(""));
  const list = document.getElementById("names");
  for (const name of [...byName.keys(), ...[...document.querySelectorAll("table.layers tr[id]")].map((row) => row.id)]) {
    list.append(new Option(name));
  }

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") return document.activeElement === box ? box.blur() : leave();
    if (document.activeElement === box) return;
    if (event.key === "/") event.preventDefault(), box.focus();
    else if (event.key === "j" && shown) step(1);
    else if (event.key === "k" && shown) step(-1);
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest("a[href^='#']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const kernel = kernelOf(decodeURIComponent(link.getAttribute("href").slice(1)));
    if (!kernel) return;
    event.preventDefault();
    go(kernel);
  });

  addEventListener("popstate", follow);
  follow();
})();
