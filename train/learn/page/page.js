// The page: one station at a time, its grids, and beside them what is known of the cell that is pointed at.

const $ = (id) => document.getElementById(id);
const shown = { station: -1, cell: null };
const HUES = 5;

function make(tag, className = "", ...content) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...content);
  return element;
}

/** A number with three digits or so, as a screen reader says it. */
function short(x) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "–" : x < 0 ? "−∞" : "∞";
  const size = Math.abs(x);
  return size && (size < 0.001 || size >= 1e5) ? signed(x.toExponential(2)) : signed(String(Number(x.toPrecision(3))));
}
const signed = (text) => text.replaceAll("-", "−").replace("e+", "e");
const fixed = (x, n) => signed(x.toFixed(n).replace(/^-(0\.?0*)$/, "$1")); // no minus before a zero
const digits = (x, n) => (Number.isFinite(x) ? signed(String(Number(x.toPrecision(n)))) : short(x));

const axis = (letter) => data.axes[letter] ?? { take: [0], size: 1, labels: [""] };
/** The name of a row or a column: a token has its number beside it. */
function label(letter, i) {
  const { labels, take } = axis(letter);
  return "tv".includes(letter) ? `${labels[i]} ${take[i]}` : labels[i];
}
function labelled(letter, i) {
  const { labels, take } = axis(letter);
  return "tv".includes(letter) ? [make("bdi", "", labels[i]), make("sub", "", take[i])] : [labels[i]];
}
const SIDES = { value: "", gradient: "gradient of ", update: "update of " };
const BANDS = { value: "Values", gradient: "Gradients of the mean loss", update: "AdamW's first update" };
const PARTS = { reads: "read", parameters: "parameter", makes: "made" };
const title = (id) => SIDES[data.grids[id].side] + data.grids[id].title;
const tokenOf = (id) => axis("v").labels[axis("v").take.indexOf(id)];

/** The power of ten in which a grid is written, so that its largest number has one or two digits before the point. */
function unitOf(grid, n) {
  let largest = 0;
  for (let i = grid.at; i < grid.at + n; i++) if (Number.isFinite(numbers[i])) largest = Math.max(largest, Math.abs(numbers[i]));
  const power = largest ? Math.floor(Math.log10(largest)) : 0;
  return { largest, power: power < -1 || power > 2 ? power : 0 };
}

function showGrid(id, part) {
  const grid = data.grids[id], [rows, columns] = [grid.rows, grid.columns], [n, m] = sides(grid), unit = unitOf(grid, n * m);
  const table = make("table", grid.side);
  table.setAttribute("role", "grid");
  table.setAttribute("aria-label", `${title(id)}, ${n} by ${m}`);
  table.dataset.id = id;
  const head = make("tr", "", make("th", "corner"));
  head.setAttribute("role", "row");
  for (let c = 0; c < m; c++) head.append(header("columnheader", columns, c));
  table.append(make("thead", "", head), make("tbody"));
  for (let r = 0; r < n; r++) {
    const row = make("tr", "", header("rowheader", rows, r));
    row.setAttribute("role", "row");
    for (let c = 0; c < m; c++) row.append(showCell(id, r, c, unit));
    table.lastChild.append(row);
  }
  table.lastChild.firstChild.cells[1].tabIndex = 0;
  const [whole, here] = [`${axis(rows).size} × ${axis(columns).size}`, `${n} × ${m}`];
  const size = [PARTS[part] + (!grid.yours ? "" : part === "makes" ? " by you" : ", made by you"), whole, ...(whole === here ? [] : [`${here} shown`])].join(", ");
  const power = unit.power ? [", in units of 10", make("sup", "", signed(String(unit.power)))] : [];
  const caption = make("figcaption", "", make("b", "", title(id)), make("span", "", size, ...power));
  return make("figure", part, caption, make("div", "scroller", table));
}

function header(role, letter, i) {
  const th = make("th", "", ...labelled(letter, i));
  th.setAttribute("role", role);
  th.title = label(letter, i);
  return th;
}

function showCell(id, r, c, { largest, power }) {
  const grid = data.grids[id], x = numbers[at(id, r, c)], [ids, finite] = [grid.columns === "i", Number.isFinite(x)];
  const text = ids ? tokenOf(x) : !finite ? short(x) : x === 0 ? "0" : fixed(x / 10 ** power, largest < 100 || power ? 2 : 0);
  const td = make("td", x < 0 ? "minus" : "plus", text, ...(ids ? [make("sub", "", x)] : []));
  td.style.setProperty("--much", finite && largest && !ids ? Math.sqrt(Math.abs(x) / largest) : 0);
  td.setAttribute("role", "gridcell");
  const off = grid.yours && differs(x, twins[at(id, r, c)], largest);
  td.classList.toggle("off", off);
  td.setAttribute("aria-label", `${where(grid, r, c)}: ${ids ? `${tokenOf(x)} ${x}` : short(x)}${off ? ", not what is right" : ""}`);
  td.tabIndex = -1;
  return td;
}

/** Whether a learner's number is wrong: by more than the rounding of float32. */
const differs = (x, right, largest) => x !== right && !(Math.abs(x - right) <= 1e-4 * Math.max(largest, 1e-3));
const named = (kind, letter, i) => (label(letter, i) === "" ? [] : [`${kind} ${label(letter, i)}`]);
const where = (grid, r, c) => [...named("row", grid.rows, r), ...named("column", grid.columns, c)].join(", ") || "the number";

function show(index, focus = false) {
  const station = data.stations[index];
  if (!station || index === shown.station) return;
  [shown.station, shown.cell] = [index, null];
  $("title").textContent = (station.group ? `${station.group}: ` : "") + station.title;
  $("says").textContent = station.says;
  $("notes").replaceChildren(...station.notes.map((note) => make("li", "", note)));
  $("grids").replaceChildren(...Object.keys(BANDS).flatMap((side) => showBand(station, side)));
  $("steps").querySelectorAll("a").forEach((link, i) => (i === index ? link.setAttribute("aria-current", "step") : link.removeAttribute("aria-current")));
  const current = $("steps").querySelector("[aria-current]");
  $("steps").scrollTop = current.offsetTop - $("steps").clientHeight / 3; // scrollIntoView would move the page as well
  $("choose").value = index;
  $("before").disabled = index === 0;
  $("after").disabled = index === data.stations.length - 1;
  if (location.hash.slice(1) !== station.key) history.replaceState(null, "", `#${station.key}`);
  const made = station.makes.flat().find((id) => !"sm".includes(data.grids[id].columns)); // no statistics
  point(made, height(made) - 1, 0);
  if (focus) $("title").focus();
}

/** The values, the gradients or the updates of a station; nothing if it has none. */
function showBand(station, side) {
  const cards = Object.keys(PARTS).flatMap((part) => {
    const ids = station[part].flat().filter((id) => data.grids[id].side === side), grids = ids.map((id) => showGrid(id, part));
    return part === "parameters" && ids.length ? [make("div", "stack", ...grids)] : grids;
  });
  return cards.length ? [make("section", "", make("h3", "", BANDS[side]), make("div", "cards", ...cards))] : [];
}

/** Show what is known of a cell, and mark the cells that made it. */
function point(id, r, c) {
  shown.cell = { id, r, c };
  for (const td of $("grids").querySelectorAll("[data-hue], .pointed")) { delete td.dataset.hue; td.classList.remove("pointed"); }
  const parts = formula(id, r, c);
  for (const part of parts) if (part.id) find(part.id, part.r, part.c).forEach((td) => (td.dataset.hue = part.hue % HUES));
  find(id, r, c).forEach((td) => td.classList.add("pointed"));
  inspect(id, r, c, parts);
}

/** The cells on the page with this number; an array may be both read and made. */
function find(id, r, c) {
  const tables = [...$("grids").querySelectorAll("table")].filter((table) => table.dataset.id === id);
  return tables.map((table) => table.tBodies[0].rows[r].cells[c + 1]);
}

function inspect(id, r, c, parts) {
  const grid = data.grids[id], [ours, twin] = [numbers[at(id, r, c)], twins[at(id, r, c)]];
  $("which").replaceChildren(title(id), make("span", "", ": ", where(grid, r, c)));
  $("whose").textContent = grid.yours ? "yours" : "the model";
  $("ours").textContent = digits(ours, 9);
  $("twin").textContent = digits(twin, 16);
  $("difference").textContent = Number.isFinite(ours - twin) ? digits(ours - twin, 3) : ours === twin ? "0" : "–";
  $("formula").replaceChildren(...written(parts, (x) => digits(x, 4)).map((part) => (part.id ? make("span", `hue${part.hue % HUES}`, part.text) : part.text)));
  if (parts.length) $("formula").append(` = ${digits(number(id, r, c), 4)}`);
  else $("formula").textContent = grid.made.says;
  if (grid.made.do === "own") $("formula").prepend(`${grid.made.says}: `);
  const sources = new Map();
  for (const part of parts) if (part.id) sources.set(`${part.id} ${part.hue}`, [...(sources.get(`${part.id} ${part.hue}`) ?? []), part]);
  $("sources").replaceChildren(...[...sources.values()].map(source));
}

/** The parts with their text; a negative number within a formula is in brackets unless it has some already. */
function written(parts, text) {
  return parts.map((part, i) => {
    if (typeof part === "string") return { text: part };
    const x = part.id ? number(part.id, part.r, part.c) : part.plain, [before, after] = [parts[i - 1] ?? "", parts[i + 1] ?? ""];
    const bare = x >= 0 || parts.length === 1 || (/\($/.test(before) && /^\)/.test(after));
    return { ...part, text: bare ? text(x) : `(${text(x)})` };
  });
}

/** One line for the cells of one grid that a formula reads: which they are, and the way to them. */
function source(cells) {
  const [{ id, r, c, hue }] = cells, grid = data.grids[id];
  const [oneRow, oneColumn] = [cells.every((other) => other.r === r), cells.every((other) => other.c === c)];
  const part = oneRow && oneColumn ? where(grid, r, c) : oneRow ? `row ${label(grid.rows, r)}` : oneColumn ? `column ${label(grid.columns, c)}` : "several cells";
  const line = make("li", `hue${hue % HUES}`, `${title(id)}: ${part}`);
  const home = data.stations.findIndex((station) => [...station.makes, ...station.parameters].some((ids) => ids.includes(id)));
  if (home >= 0 && !find(id, r, c).length) {
    const go = make("button", "go", "go there");
    go.addEventListener("click", () => { show(home); point(id, r, c); find(id, r, c)[0]?.focus(); });
    line.append(" ", go);
  }
  return line;
}

const placeOf = (td) => ({ id: td.closest("table").dataset.id, r: td.parentNode.sectionRowIndex, c: td.cellIndex - 1 });

function onPoint(event) {
  const td = event.target.closest("td");
  if (!td) return;
  const { id, r, c } = placeOf(td);
  if (event.type === "focusin") {
    td.closest("table").querySelectorAll("td[tabindex='0']").forEach((other) => (other.tabIndex = -1));
    td.tabIndex = 0;
  }
  point(id, r, c);
}

function onKey(event) {
  const td = event.target.closest("td");
  if (!td || event.altKey || event.metaKey) return;
  const { r, c } = placeOf(td), rows = td.closest("tbody").rows, last = rows[0].cells.length - 2, end = rows.length - 1;
  const moves = {
    ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], ArrowUp: [r - 1, c], ArrowDown: [r + 1, c],
    Home: [event.ctrlKey ? 0 : r, 0], End: [event.ctrlKey ? end : r, last],
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const [row, column] = moves[event.key];
  if (column >= 0) rows[row]?.cells[column + 1]?.focus();
}

function showSteps() {
  let group;
  data.stations.forEach((station, i) => {
    if (station.group !== group) {
      group = station.group;
      if (group) $("steps").append(make("h2", "", group));
      $("choose").append(Object.assign(make("optgroup"), { label: group || "Text" }));
    }
    const link = make("a", "", station.title);
    link.href = `#${station.key}`;
    $("steps").append(link);
    $("choose").lastChild.append(Object.assign(make("option", "", station.title), { value: i }));
  });
}

function fromHash() {
  const index = data.stations.findIndex((station) => `#${station.key}` === location.hash);
  show(index < 0 ? data.stations.findIndex((station) => station.key === data.open) : index);
}

$("text").append(make("bdi", "", data.text));
$("about").textContent = data.about;
document.title = `${data.text}, number by number`;
showSteps();
fromHash();
addEventListener("hashchange", fromHash);
for (const kind of ["pointerover", "focusin"]) $("grids").addEventListener(kind, onPoint);
$("grids").addEventListener("click", (event) => event.target.closest("td")?.focus());
$("grids").addEventListener("keydown", onKey);
$("choose").addEventListener("change", () => show(Number($("choose").value)));
$("before").addEventListener("click", () => show(shown.station - 1, true));
$("after").addEventListener("click", () => show(shown.station + 1, true));
$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = dark === "dark" ? "light" : "dark";
});
