"""Machine code is read right: the control bits, the sections of a cubin, where its arguments lie."""

import pytest

from tricnn.machine.sass import Control, InspectionError, instructions, parameters, sections


@pytest.mark.parametrize(
    ("field", "low", "width"), [("stall", 105, 4), ("write", 110, 3), ("read", 113, 3), ("wait", 116, 6)]
)
def test_control_bits_stand_where_the_paper_says(field, low, width):
    """Jia et al. 2018, section 2.1, counted from the instruction's lowest bit."""
    for value in (1, 2**width - 1):
        control = Control.of((value << low).to_bytes(16, "little"))
        others = {"stall", "write", "read", "wait"} - {field}
        assert getattr(control, field) == value and not any(getattr(control, other) for other in others)


def test_an_instruction_has_its_own_control_bits():
    text = "/*0000*/ NOP ;\n/*0010*/ @!P0 BRA `(.L_x) ;\n.L_x:\n/*0020*/ EXIT ;\n"
    code = b"".join((stall << 105).to_bytes(16, "little") for stall in (1, 5, 7))
    found = instructions(text, code)
    assert [x.control.stall for x in found] == [1, 5, 7]
    assert (found[1].guard, found[1].target) == ("!P0", 2)


@pytest.mark.parametrize("damaged", [b"", b"\x7fELF", b"\x7fELF" + bytes(200)])
def test_what_is_no_cubin_is_refused(damaged):
    for read in (lambda b: list(sections(b)), parameters):
        with pytest.raises(InspectionError):
            read(damaged)
