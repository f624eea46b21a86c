"""The page's looks and its one script, as text: the page brings all it needs."""

from __future__ import annotations

# Okabe and Ito's colours, lighter where the page is dark; q0 to q7 go from dark to light at an even pace, so that
# their order survives any kind of colour vision.
CSS = """
:root { color-scheme: light dark; --ink: #23272e; --quiet: #59616d; --paper: #ffffff; --panel: #f5f6f8;
  --rule: #dcdfe4; --link: #005a8d; --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #e69f00;
  --c5: #56b4e9; --c6: #333333; --c7: #999999; --q0: #440154; --q1: #46327e; --q2: #365c8d; --q3: #277f8e;
  --q4: #1fa187; --q5: #4ac16d; --q6: #a0da39; --q7: #f0e21d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ee; --quiet: #a5acb8; --paper: #14161a; --panel: #1e2127;
  --rule: #363b44; --link: #7cc4f5; --c0: #4aa3e0; --c1: #f47b36; --c2: #22c298; --c3: #e3a0c6; --c4: #f2bd45;
  --c5: #a8dcff; --c6: #f2f2f2; --c7: #8b919b; --q0: #8551a8; --q1: #7068c0; --q2: #5487c7; --q3: #43a4bd;
  --q4: #46bfa0; --q5: #79d378; --q6: #b9e253; --q7: #f7ee6a; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink);
  background: var(--paper); max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; border-top: 1px solid var(--rule); padding-top: 1.2rem; }
h3 { font-size: .95rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: .4rem 0 .8rem; }
a { color: var(--link); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0; font-size: .92rem; }
.lead { font-size: 1.06rem; color: var(--quiet); }
.note, figcaption { font-size: .88rem; color: var(--quiet); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.4rem, 1fr)); gap: .7rem; margin: 1.3rem 0; }
.facts div { background: var(--panel); border-radius: 8px; padding: .55rem .6rem; }
.facts dt { font-size: .78rem; color: var(--quiet); }
.facts dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
figure { margin: .8rem 0; min-width: 0; }
.grid { display: grid; gap: 1rem 1.4rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.grid.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.wide { max-width: 54rem; }
svg { display: block; width: 100%; height: auto; }
svg .label { font-size: 12px; fill: var(--quiet); }
svg .name { font-size: 12.5px; fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .axis, svg .tick { stroke: var(--quiet); stroke-width: 1; }
svg .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
svg .band { fill: currentColor; opacity: .22; stroke: none; }
svg .bar { fill: currentColor; }
svg .bar.soft { opacity: .45; }
svg .median { stroke: var(--ink); stroke-width: 2.5; }
svg .dot { fill: currentColor; stroke: var(--paper); stroke-width: .6; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); } .c7 { color: var(--c7); }
.q0 { color: var(--q0); } .q1 { color: var(--q1); } .q2 { color: var(--q2); } .q3 { color: var(--q3); }
.q4 { color: var(--q4); } .q5 { color: var(--q5); } .q6 { color: var(--q6); } .q7 { color: var(--q7); }
.none { color: var(--rule); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin: .3rem 0;
  font-size: .88rem; }
.legend .title { font-weight: 600; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 50%; background: currentColor;
  margin-right: .4em; }
.scroll { overflow: auto; max-width: 100%; }
.scroll:focus-visible, button:focus-visible, input:focus-visible, a:focus-visible, summary:focus-visible {
  outline: 3px solid var(--c0); outline-offset: 2px; }
#models-region { max-height: 34rem; border: 1px solid var(--rule); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .3rem .6rem .5rem 0; color: var(--quiet); }
th, td { padding: .28rem .65rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th { font-weight: 600; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tbody th { font-weight: 400; font-family: ui-monospace, monospace; font-size: .95em; }
#model-table thead th { position: sticky; top: 0; background: var(--panel); z-index: 2; }
#model-table tbody th { position: sticky; left: 0; background: var(--paper); z-index: 1; }
#model-table thead th:first-child { left: 0; z-index: 3; }
#model-table caption { padding-left: .65rem; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th button::after { content: " \\2195"; color: var(--quiet); }
th[aria-sort="ascending"] button::after { content: " \\2191"; color: var(--ink); }
th[aria-sort="descending"] button::after { content: " \\2193"; color: var(--ink); }
.filter { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .8rem; margin: .6rem 0; }
.filter input { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--quiet);
  border-radius: 6px; padding: .35rem .6rem; width: min(26rem, 100%); }
pre { background: var(--panel); border-radius: 8px; padding: .9rem 1.1rem; overflow: auto; max-height: 30rem;
  font-size: .84rem; }
code { font-size: .9em; }
details summary { cursor: pointer; font-size: .92rem; }
dl.pairs { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1.4rem; font-size: .92rem; }
dl.pairs dt { color: var(--quiet); } dl.pairs dd { margin: 0; overflow-wrap: anywhere; }
@media print { nav, .filter { display: none; } #models-region, pre { max-height: none; } }
"""

# Sort by a click on a column's head, filter by words and by comparisons such as lr<0.001.
SCRIPT = r"""
(() => {
  const table = document.getElementById("model-table");
  if (!table) return;
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.dataset.column);
  const rows = [...table.tBodies[0].rows];
  const box = document.getElementById("filter");
  const count = document.getElementById("count");
  document.getElementById("controls").hidden = false;
  const text = (row, place) => row.cells[place].textContent;
  const compare = (left, right) => {
    if (left === "" || right === "") return { blank: (left === "") - (right === "") };
    const a = Number(left), b = Number(right);
    if (!Number.isNaN(a) && !Number.isNaN(b)) return { order: a - b };
    return { order: left.localeCompare(right) };
  };
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((first, second) => {
      const found = compare(text(first, place), text(second, place));
      return found.blank ?? (down ? -found.order : found.order);
    });
    table.tBodies[0].append(...rows);
  }));
  const condition = (word) => {
    const parts = word.match(/^([^<>=!]+)(<=|>=|!=|==|=|<|>)(.+)$/);
    if (!parts || !names.includes(parts[1])) {
      const wanted = word.toLowerCase();
      return (row) => row.textContent.toLowerCase().includes(wanted);
    }
    const place = names.indexOf(parts[1]);
    return (row) => {
      const { order } = compare(text(row, place), parts[3]);
      if (order === undefined) return false;
      return { "<": order < 0, ">": order > 0, "<=": order <= 0, ">=": order >= 0,
        "=": order === 0, "==": order === 0, "!=": order !== 0 }[parts[2]];
    };
  };
  const filter = () => {
    const conditions = box.value.split(/\s+/).filter(Boolean).map(condition);
    let shown = 0;
    rows.forEach((row) => {
      const keep = conditions.every((holds) => holds(row));
      row.hidden = !keep;
      shown += keep;
    });
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  };
  box.addEventListener("input", filter);
  filter();
})();
"""
