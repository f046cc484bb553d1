"""``tricnn report``: one file that says what the compiler did, whole without a network and without scripts."""

import base64
import contextlib
import io
import json
import re
import zlib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.cli.browser import needs_browser, opened
from tricnn.cli import main
from tricnn.report.page.write import page

HOW = ("--mode", "train", "--batch", "256", "--dtype", "bf16", "--target", "sm_90")


class Page(HTMLParser):
    """The ids and the links of a page, and whether its tags are closed in order."""

    VOID = frozenset(["meta", "link", "input", "br", "wbr", "hr", "img"])

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "src"):
                self.links.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> in line {self.getpos()[0]}"


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The page of a network, and its object; each made once."""
    folder, made = tmp_path_factory.mktemp("pages"), {}

    def make(*arguments):
        if arguments not in made:
            out, printed = folder / f"{len(made)}.html", io.StringIO()
            with contextlib.redirect_stdout(printed):
                assert main(["report", *arguments, "--out", str(out), "--json"]) == 0
            made[arguments] = out, json.loads(printed.getvalue())
        return made[arguments]

    return make


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet50", "googlenet_bn")]
LARGE_PARTS = [  # in inference a convolution is folded into its batch norm, and called by that name
    pytest.param(network, part, mode, marks=pytest.mark.slow)
    for network, part, mode in (
        ("resnet50", "layer3_5_conv2", "train"), ("resnet50", "layer3_5_bn2", "infer"),
        ("googlenet_bn", "inception4c_branch3_1", "train"), ("googlenet_bn", "inception4c_branch3_1", "infer"),
    )
]  # fmt: skip
SMALL_PARTS = [("lenet", "k01_conv2", "train"), ("resnet18", "layer3_1_conv2", "train")]


@pytest.mark.parametrize("network", ["lenet", "resnet18", *LARGE])
def test_a_page_is_one_file_and_its_links_lead_somewhere(reported, network):
    path, facts = reported(network, *HOW)
    text = path.read_text()
    parsed = Page(text)
    assert parsed.open == [] and len(text) < 2_000_000
    assert [name for name, count in Counter(parsed.ids).items() if count > 1] == []
    assert {link[0] for link in parsed.links if link != "data:,"} == {"#"}, "nothing may be asked of a network"
    assert {link[1:] for link in parsed.links if link[0] == "#"} - set(parsed.ids) == set()
    assert "url(" not in text and "@import" not in text
    for kernel in facts["kernels"]:
        assert kernel["name"] in parsed.ids and kernel["id"] in parsed.ids  # page.html#k29
    assert set(facts["layers"]) <= set(parsed.ids)  # page.html#layer1.0.conv1


def folds(scope):
    yield scope
    for member in scope["members"]:
        if not isinstance(member, str):
            yield from folds(member)


@pytest.mark.parametrize("network", ["lenet", "resnet18"])
@pytest.mark.parametrize("mode", ["train", "infer"])
def test_what_folds_say_sums_to_the_whole(reported, network, mode):
    """Each launch is in one fold of a level, so that a reader can add them up; the totals are those of ``compile``."""
    _, facts = reported(network, "--mode", mode, *HOW[2:])
    root = facts["scopes"]
    assert (root["launches"], root["dram_bytes"]) == (facts["launches"], facts["dram_bytes"])
    assert (root["unfused_launches"], root["unfused_bytes"]) == tuple(
        facts["unfused"][key] for key in ("launches", "dram_bytes")
    )
    by_layer = Counter()
    for kernel in facts["kernels"]:
        by_layer[kernel["layer"]] += len(kernel["launches"])
    for fold in folds(root):
        inner = sum(by_layer[m] if isinstance(m, str) else m["launches"] for m in fold["members"])
        assert fold["launches"] == inner and fold["layers"] >= len(fold["members"])


def test_a_page_carries_its_object(reported):
    path, facts = reported("lenet", *HOW)
    packed = re.search(r'id="tricnn-report">([^<]+)<', path.read_text())[1]
    carried = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert carried == {key: value for key, value in facts.items() if key not in ("page", "verification")}


def test_text_of_a_user_is_text(tmp_path, reported):
    """A network's own names and what rules say of them are escaped, whatever they hold."""
    _, facts = reported("lenet", *HOW)
    evil = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>"
    changed = json.loads(json.dumps(facts).replace("conv1", json.dumps(evil)[1:-1]))
    text = page({key: value for key, value in changed.items() if key not in ("page", "verification")})
    assert "<img" not in text and text.count("<script") == 2 and "alert(2)</script>" not in text
    assert "&lt;img src=x" in text


def test_verification_is_on_the_page(tricnn, tiny):
    ran = tricnn("report", tiny, "--mode", "infer", "--verify", "--out", "tiny.html")
    assert ran.status == 0, ran.err
    text = Path("tiny.html").read_text()
    assert "all within tolerance" in text and text.count("<td>ok</td>") >= 2


def test_measured_times_are_of_the_same_launches(tricnn, tiny):
    """Of the case that has the same network, mode, type and batch; a launch is found by its function and layers."""
    how = ("--mode", "infer", "--batch", "8", "--dtype", "bf16", "--out", "t.html", "--json")
    rows = [{"name": "k01_fc", "layers": ["fc"], "milliseconds": 0.25},
            {"name": "k00_conv", "layers": ["conv", "act", "pool"], "milliseconds": 0.5}]  # fmt: skip
    case = {"network": "tiny", "mode": "infer", "dtype": "bf16", "batch": 8, "kernels": rows}
    layers = {k["name"]: [n["name"] for n in k["nodes"]] for k in tricnn("report", tiny, *how).json["kernels"]}
    assert layers["k01_fc"] == ["fc"]
    rows[1]["layers"] = layers["k00_conv"]
    Path("gpu.json").write_text(json.dumps({"device": "a card", "cases": [case]}))
    facts = tricnn("report", tiny, "--bench", "gpu.json", *how).json
    assert [k["measured_us"] for k in facts["kernels"]] == [500.0, 250.0] and facts["measured_us"] == 750.0
    assert "measured, launch by launch (a card)" in Path("t.html").read_text()
    other = tricnn("report", tiny, "--bench", "gpu.json", "--mode", "infer", "--batch", "16")
    assert other.status == 2 and "it has those of: tiny, infer, bf16, batch 8" in other.err
    Path("gpu.json").write_text('{"cases": 3}')
    assert tricnn("report", tiny, "--bench", "gpu.json", *how).status == 2


def test_what_bench_prints_is_on_the_page(tricnn, tiny):
    """The file that the command wrote, as it wrote it: the medians of a step, beside what ran it."""
    bench = tricnn("bench", tiny, "--batch", "2", "--seconds", "0.05", "--json")
    Path("bench.json").write_text(bench.out)
    how = ("--mode", "train", "--bench", "bench.json", "--out", "t.html", "--json")
    facts = tricnn("report", tiny, *how, "--batch", "2").json
    times = {row["name"]: row["median_seconds"] * 1e6 for row in bench.json["timings"]}
    assert facts["measured_steps"] == pytest.approx(times, abs=1e-3) and "PyTorch" in times
    assert facts["measured_on"] == bench.json["device"] and facts["measured_us"] is None
    text = Path("t.html").read_text()
    assert Page(text).open == [] and f"measured: one step ({bench.json['device']})" in text
    assert "measured, launch by launch" not in text
    assert all(f"<th>{name}</th>" in text for name in times)
    other = tricnn("report", tiny, *how, "--batch", "3")
    assert other.status == 2 and "it has those of: tiny, train, fp32, batch 2" in other.err


@pytest.mark.parametrize(
    "out, said", [("nowhere/x.html", "there is no folder nowhere"), (".", "is a folder"), ("", "--out")]
)
def test_where_no_page_can_be_written(tricnn, out, said):
    ran = tricnn("report", "lenet", "--out", out)
    assert ran.status == 2 and said in ran.err and ran.out == ""


def test_lines_of_the_source_are_marked_with_their_layer(reported):
    """relu(bn2(z) + x) in one pass: who multiplies, who adds, who cuts off, and who loads what it needs."""
    path, facts = reported("resnet18", *HOW)
    (name,) = [k["name"] for k in facts["kernels"] if k["name"].endswith("_layer1_0_relu2")]
    nodes = [node["name"] for k in facts["kernels"] if k["name"] == name for node in k["nodes"]]
    function = facts["functions"][name]
    lines = function["source"].splitlines()
    assert len(lines) == len(function["nodes_of_lines"])
    marked = {line.strip(): n if n is None else nodes[n] for line, n in zip(lines, function["nodes_of_lines"])}
    found = {text.split(" = ")[0].split("(")[0]: layer for text, layer in marked.items()}
    loads = dict.fromkeys(("x_tile", "mean_c", "weight_c", "bias_c", "normalize"), "layer1.0.bn2")
    expected = {**loads, "b_tile": "layer1.0.add", "add": "layer1.0.add", "relu": "layer1.0.relu2"}
    assert expected | {"tl.store": "layer1.0.relu2"} == {key: found[key] for key in (*expected, "tl.store")}
    assert found["def " + name + "_body"] is None
    body = path.read_text().split(f'id="source:{name}"')[1].split("</pre>")[0]
    assert "<b data-n=2>    add = normalize" in body


@pytest.mark.parametrize("network", ["resnet18", LARGE[0]])
def test_kernels_that_share_a_function_know_its_lines_as_their_own_layers(reported, network):
    """Marks of a function are of its first kernel's nodes; beside another kernel, of the same operations of that."""
    _, facts = reported(network, *HOW)
    ops = {kernel["name"]: [node["op"] for node in kernel["nodes"]] for kernel in facts["kernels"]}
    shared = 0
    for launch in facts["launch_rows"]:
        function, own = facts["functions"][launch["function"]], dict(launch["nodes"])
        assert len(own) == len(launch["nodes"]), "a node of the first kernel is one of this kernel"
        for number in {*function["nodes_of_lines"]} - {None}:
            here, there = ops[launch["kernel"]][own.get(number, number)], ops[function["kernel"]][number]
            assert here == there, launch
        shared += function["kernel"] != launch["kernel"]
    assert shared, "no function is shared"


@needs_browser
@pytest.mark.parametrize("network, part, mode", [*SMALL_PARTS, *LARGE_PARTS])
def test_in_a_browser_a_kernel_is_found_clicked_and_read(tmp_path, reported, network, part, mode):
    """No error; a fold opens; a click on a kernel shows it with its source; so does its name in the search field."""
    path, facts = reported(network, "--mode", mode, *HOW[2:])
    steps = """
    const panel = document.getElementById("panel"), seen = {};
    const fold = document.querySelector("details.scope");
    if (fold) fold.querySelector("summary").click();
    seen.fold = !fold || fold.open;  // LeNet has no scopes
    document.querySelector("#at\\\\:network svg a[data-kernels]")
      .dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true}));
    await wait();
    seen.clicked = panel.querySelector(".title").textContent;
    seen.moved = scrollY;
    seen.marked = document.querySelectorAll("svg a.current").length;
    seen.code = panel.querySelectorAll("pre b").length;
    document.dispatchEvent(new KeyboardEvent("keydown", {key: "j", bubbles: true})); await wait();
    seen.next = panel.querySelector(".title") && panel.querySelector(".title").textContent;
    document.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape", bubbles: true})); await wait();
    seen.closed = panel.hidden;
    const box = document.querySelector("#find input");
    box.value = PART; document.getElementById("find").requestSubmit(); await wait();
    seen.found = panel.querySelector(".title").textContent;
    return seen;"""
    found, errors = opened(path, tmp_path, steps.replace("PART", json.dumps(part)))
    assert errors == []
    names = [kernel["name"] for kernel in facts["kernels"]]
    assert found["fold"] and found["closed"] and found["code"] > 10 and found["marked"] and not found["moved"]
    assert found["next"] == names[names.index(found["clicked"]) + 1]
    assert part in found["found"]


def with_times(facts):
    """The object of a page with made-up simulated and measured times of every launch, which make its widest tables."""
    times = {"simulated_us": 1234.5, "measured_us": 1234.5}
    simulated = {**times, "limit_us": 812.1, "share": 0.66, "limit": "operations", "waits_for": "products of matrices"}
    own = {key: value for key, value in facts.items() if key not in ("page", "verification")}
    made = {"simulator": {"version": 1, "gpu": "H100 SXM"}, "measured_on": "a card"}
    made["launch_rows"] = [launch | simulated for launch in facts["launch_rows"]]
    made["kernels"] = [kernel | times for kernel in facts["kernels"]]
    return own | times | made


@needs_browser
def test_in_a_panel_of_any_width_no_figure_is_cut(tmp_path, reported):
    """Every cell of every kernel's tables lies within the panel, its text within the cell; source scrolls by itself."""
    _, facts = reported("resnet18", *HOW)
    path = tmp_path / "times.html"
    path.write_text(page(with_times(facts)))
    steps = """
    const panel = document.getElementById("panel"), cut = [], layouts = new Set();
    document.querySelector("#at\\\\:network svg a[data-kernels]")
      .dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true}));
    for (const width of [420, 640, 900, 1300]) {
      panel.style.width = width + "px";
      await wait();
      layouts.add(getComputedStyle(panel.querySelector(".launches tr:last-child")).display);
      const right = panel.getBoundingClientRect().left + panel.clientLeft + panel.clientWidth;
      for (const cell of panel.querySelectorAll("td, th"))
        if (cell.getClientRects().length && (cell.getBoundingClientRect().right > right + 1
            || cell.scrollWidth > cell.clientWidth + 1)) cut.push([width, cell.textContent]);
    }
    const seen = panel.querySelector(".launches tbody tr").textContent;
    return {cut, layouts: [...layouts], seen};"""
    found, errors = opened(path, tmp_path, steps)
    assert errors == [] and found["cut"] == []
    assert found["layouts"] == ["flex", "table-row"], "stacked where it is narrow, a table where it is wide"
    assert "products of matrices" in found["seen"] and "1.234 ms" in found["seen"]


IMPORTED = """
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return nn.functional.relu(x + self.norm(self.conv(x)))

def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


@needs_browser
@pytest.mark.parametrize("kind", ["factory", "onnx"])
def test_an_imported_networks_page(tricnn, tmp_path, kind):
    """Its modules are the folds; a layer of one is found by its PyTorch name, and its kernel's lines are marked."""
    Path("tricnn_report_net.py").write_text(IMPORTED)
    model = "tricnn_report_net:small"
    if kind == "onnx":
        assert tricnn("export", model, "--input", "3,16,16", "--out", "small.onnx").status == 0
        model = "small.onnx"
    how = () if kind == "onnx" else ("--input", "3,16,16")
    ran = tricnn("report", model, *how, "--mode", "train", "--batch", "8", "--out", "small.html", "--json")
    assert ran.status == 0, ran.err
    facts = ran.json
    parsed = Page(Path("small.html").read_text())
    assert parsed.open == [] and {link[1:] for link in parsed.links if link[0] == "#"} <= set(parsed.ids)
    layer = next(name for name in facts["layers"] if "conv" in name and name.startswith("2"))
    steps = f"""
    location.hash = "#" + {json.dumps(layer)}; await wait();
    const row = document.getElementById({json.dumps(layer)});
    const shown = row.getClientRects().length;
    row.querySelector("a.chip").click(); await wait();
    const panel = document.getElementById("panel");
    const title = panel.querySelector(".title").textContent;
    return {{shown, title, marks: panel.querySelectorAll("pre [data-n]").length}};"""
    found, errors = opened(Path("small.html").resolve(), tmp_path, steps)
    assert errors == []
    assert found["shown"] and found["marks"] > 3
    assert found["title"] in facts["layers"][layer]["forward"]


@needs_browser
@pytest.mark.parametrize("fragment", ["#k09", "#layer1.0.conv1"])
def test_a_deep_link_opens_what_it_names(tmp_path, reported, fragment):
    path, facts = reported("resnet18", *HOW)
    steps = """await wait();
    const row = document.getElementById(location.hash.slice(1));
    const title = document.querySelector("#panel .title");
    const open = row.closest("details").open;
    return {title: title && title.textContent, open, shown: row.getClientRects().length};"""
    found, errors = opened(path, tmp_path, steps, fragment)
    assert errors == []
    assert found["open"]
    if fragment == "#k09":
        assert found["title"] == next(k["name"] for k in facts["kernels"] if k["id"] == "k09")
    else:
        assert found["shown"] > 0, "every fold around it is open"
