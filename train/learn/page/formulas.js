"use strict";
// How a cell was made: `formula(id, r, c)` is a list of strings, of plain numbers, and of cells {id, r, c, hue}. Joined,
// they are an expression whose value is the cell's. The operations are those of formulas.py.

const data = JSON.parse(document.getElementById("data").textContent);
const numbers = decoded(data.numbers, Float32Array); // of the model, all grids one after another
const twins = decoded(data.twins, Float64Array); // of its twin in NumPy

function decoded(base64, Kind) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Kind(bytes.buffer);
}

/** A cell of a grid as a part of a formula; `hue` is the colour of the grid that it is in. */
const cell = (id, r, c, hue = 0) => ({ id, r, c, hue });
const sides = (grid) => [data.axes[grid.rows]?.take.length ?? 1, data.axes[grid.columns]?.take.length ?? 1];
const at = (id, r, c) => data.grids[id].at + r * sides(data.grids[id])[1] + c;
/** What a formula computes with: what is right, where a learner's function made the grid. */
const number = (id, r, c) => (data.grids[id].yours ? twins : numbers)[at(id, r, c)];
const count = (n) => [...Array(n).keys()];
const height = (id) => sides(data.grids[id])[0];
const width = (id) => sides(data.grids[id])[1];

/** Terms with " + " between them; a number that begins another term would read as one of this. */
const sum = (terms) => terms.flatMap((term, i) => (i ? [" + ", ...term] : term));
const value = (parts) => parts.reduce((total, part) => total * (part.id ? number(part.id, part.r, part.c) : 1), 1);
/** What the terms that are not shown come to, as one more part. */
const rest = (whole, shown) => [" + ", "the rest, ", { plain: whole - shown }];

const OPERATIONS = {
  given: () => [],
  own(made, r, c) {
    const rows = (made.rows ?? []).flatMap((id, i) => count(width(id)).map((k) => cell(id, r, k, i)));
    return [...rows, ...(made.cells ?? []).map((id, i) => cell(id, r, c, i))].flatMap((part, i) => (i ? [", ", part] : [part]));
  },
  lookup: (made, r, c) => [cell(made.a, made.rows[r], c)],
  total: (made, r, c) => sum(made.parts.map((id, i) => [cell(id, r, c, i)])),
  product(made, r, c, id) {
    const terms = made.terms.flatMap((term, i) => products(term, r, c, 2 * i));
    const parts = sum(terms), bias = made.bias ? [" + ", cell(made.bias, 0, c, 2)] : [];
    if (!made.cut) return [...parts, ...bias];
    const shown = terms.reduce((total, term) => total + value(term), made.bias ? number(made.bias, 0, c) : 0);
    return [...parts, ...bias, ...rest(number(id, r, c), shown)];
  },
  scaled: (made, r, c) => [cell(made.a, made.row ?? r, c), made.root ? ` / √(${made.root})` : ` / ${made.by}`],
  mask: (made, r, c, id) => (number(id, r, c) === -Infinity ? [{ plain: -Infinity }] : [cell(made.a, r, c)]),
  mask_back: (made, r, c) => (number(made.mask, r, c) === -Infinity ? [{ plain: 0 }] : [cell(made.a, r, c)]),
  softmax(made, r, c, id) {
    const terms = count(width(made.a)).map((k) => ["exp(", cell(made.a, r, k, k === c ? 0 : 1), ")"]);
    const shown = count(width(made.a)).reduce((total, k) => total + Math.exp(number(made.a, r, k)), 0);
    const more = made.cut ? rest(Math.exp(number(made.a, r, c)) / number(id, r, c), shown) : [];
    return ["exp(", cell(made.a, r, c), ") / (", ...sum(terms), ...more, ")"];
  },
  softmax_back(made, r, c) {
    const terms = count(width(made.w)).map((k) => [cell(made.w, r, k, 0), " · ", cell(made.dw, r, k, 1)]);
    return [cell(made.w, r, c, 0), " · (", cell(made.dw, r, c, 1), " − (", ...sum(terms), "))"];
  },
  stats(made, r, c, id) {
    const square = (k) => ["(", cell(made.x, r, k), " − ", cell(id, r, 0, 1), ")^2"];
    const terms = count(width(made.x)).map((k) => (c ? square(k) : [cell(made.x, r, k)]));
    const whole = c ? (number(id, r, 1) ** 2 - made.epsilon) * made.size : number(id, r, 0) * made.size;
    const one = (k) => (c ? (number(made.x, r, k) - number(id, r, 0)) ** 2 : number(made.x, r, k));
    const more = made.cut ? rest(whole, count(width(made.x)).reduce((total, k) => total + one(k), 0)) : [];
    if (!c) return made.centred ? ["(", ...sum(terms), ...more, `) / ${made.size}`] : [{ plain: 0 }];
    return ["√((", ...sum(terms), ...more, `) / ${made.size} + ${made.epsilon})`];
  },
  means(made, r, c, id) {
    if (!c && !made.centred) return [{ plain: 0 }];
    const dz = (k) => [cell(made.dy, r, k, 0), " · ", cell(made.scale, 0, k, 2)];
    const terms = count(width(made.dy)).map((k) => (c ? [...dz(k), " · ", ...standard(made, r, k)] : dz(k)));
    const z = (k) => (number(made.x, r, k) - number(made.stats, r, 0)) / number(made.stats, r, 1);
    const shown = count(width(made.dy)).reduce((total, k) => total + value(dz(k)) * (c ? z(k) : 1), 0);
    return ["(", ...sum(terms), ...(made.cut ? rest(number(id, r, c) * made.size, shown) : []), `) / ${made.size}`];
  },
  norm: (made, r, c) => [
    ...standard(made, r, c), " · ", cell(made.scale, 0, c, 2), ...(made.bias ? [" + ", cell(made.bias, 0, c, 3)] : []),
  ],
  norm_back: (made, r, c) => [
    "(", cell(made.dy, r, c, 0), " · ", cell(made.scale, 0, c, 2), " − ", cell(made.means, r, 0, 3), " − ",
    ...standard(made, r, c), " · ", cell(made.means, r, 1, 3), ") / ", cell(made.stats, r, 1, 1),
    ...(made.plus ? [" + ", cell(made.plus, r, c, 4)] : []),
  ],
  scale_back: (made, r, c) =>
    sum(count(height(made.dy)).map((t) => [cell(made.dy, t, c, 0), " · ", ...standard(made, t, c)])),
  column: (made, r, c) => sum(count(height(made.a)).map((t) => [cell(made.a, t, c)])),
  gelu(made, r, c) {
    const x = cell(made.x, r, c);
    return [x, " / 2 · (1 + tanh(√(2 / π) · (", x, " + 0.044715 · ", x, "^3)))"];
  },
  gelu_back(made, r, c) {
    const x = cell(made.x, r, c, 1), t = ["tanh(√(2 / π) · (", x, " + 0.044715 · ", x, "^3))"];
    const slope = ["(1 + ", ...t, ") / 2 + ", x, " / 2 · (1 − ", ...t, "^2) · √(2 / π) · (1 + 3 · 0.044715 · ", x, "^2)"];
    return [cell(made.dy, r, c), " · (", ...slope, ")"];
  },
  loss: (made, r) => ["−log(", cell(made.p, r, made.targets[r]), ")"],
  mean: (made) => ["(", ...sum(count(height(made.a)).map((t) => [cell(made.a, t, 0)])), `) / ${height(made.a)}`],
  loss_back: (made, r, c) => ["(", cell(made.p, r, c), ` − ${Number(c === made.targets[r])}) / ${made.n}`],
  table_back(made, r, c, id) {
    const places = made.ids.flatMap((row, t) => (row === r ? [[cell(made.dx, t, c, 0)]] : []));
    const used = made.dl ? count(height(made.dl)).map((t) => [cell(made.dl, t, r, 1), " · ", cell(made.h, t, c, 2)]) : [];
    return sum([...places, ...used]).length ? sum([...places, ...used]) : [{ plain: 0 }];
  },
  adamw(made, r, c) {
    const g = ["(", cell(made.clip, 0, 0, 1), " · ", cell(made.g, r, c, 0), ")"];
    const mean = [`(1 − ${made.b1}) · `, ...g, ` / (1 − ${made.b1}^1)`];
    const square = [`(1 − ${made.b2}) · `, ...g, `^2 / (1 − ${made.b2}^1)`];
    const decay = made.decay ? [` + ${made.decay} · `, cell(made.p, r, c, 2)] : [];
    return [`−${made.lr} · (`, ...mean, " / (√(", ...square, ") + 1e-8)", ...decay, ")"];
  },
  root: (made) => ["√(", ...sum(count(height(made.a)).map((r) => [cell(made.a, r, 0), "^2"])), ")"],
  clip: (made) => [`min(1, ${made.limit} / `, cell(made.a, 0, 0), ")"],
};

/** (x − mean) / s of a norm. */
const standard = (made, r, c) => [
  "(", cell(made.x, r, c, 1), " − ", cell(made.stats, r, 0, 3), ") / ", cell(made.stats, r, 1, 3),
];

/** The terms of one matrix product: a row of a times a column of b, either of them transposed. */
function products(term, r, c, hue) {
  const a = Array.isArray(term.a) ? term.a[term.heads[c]] : term.a, flipped = (side) => term.flip.includes(side);
  const length = term.ai?.length ?? (flipped("a") ? height(a) : width(a));
  return count(length).map((k) => {
    const [i, j] = [term.ai?.[k] ?? k, term.bi?.[k] ?? k];
    const left = flipped("a") ? cell(a, i, r, hue) : cell(a, r, i, hue);
    return [left, " · ", flipped("b") ? cell(term.b, c, j, hue + 1) : cell(term.b, j, c, hue + 1)];
  });
}

const formula = (id, r, c) => OPERATIONS[data.grids[id].made.do](data.grids[id].made, r, c, id);
