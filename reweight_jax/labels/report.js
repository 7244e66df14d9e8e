"use strict";
// The list of suspects. All text enters the page by textContent: names of files and classes are
// data, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const {task, classes, cards} = data;
const byId = (id) => document.getElementById(id);
const isTags = task === "multi_label", isNumber = task === "regression";
const FEW = 40; // classes that fit in one menu, or tags that fit in one card

// ---- labels as text: the same text as in suspects.csv

function labelText(label) {
  if (label === null) return "";
  if (isNumber) return label;
  if (!isTags) return classes[label];
  const unknown = new Set(label.unknown);
  return [...label.present, ...label.unknown].sort((a, b) => a - b)
    .map((k) => (unknown.has(k) ? "?" : "") + classes[k]).join(";");
}

function classesOf(label) {
  return label === null ? [] : isTags ? label.present : [label];
}

function signed(value) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replace("-", "\u2212");
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// ---- decisions, kept in the browser under the run's key

const storageKey = "reweight_jax decisions " + data.key;
let decisions = {}; // index -> {decision, label}

function load() {
  try {
    const saved = JSON.parse(localStorage.getItem(storageKey) || "{}");
    for (const card of cards) {
      const entry = saved[card.index];
      if (entry && ["keep", "relabel", "drop"].includes(entry.decision)) {
        decisions[card.index] = {decision: entry.decision, label: String(entry.label || "")};
      }
    }
  } catch (error) { // storage is off, or holds something else
    decisions = {};
  }
}

function store() {
  try {
    localStorage.setItem(storageKey, JSON.stringify(decisions));
  } catch (error) {
    say("This browser does not keep the decisions: save decisions.csv before you leave the page.");
  }
}

function say(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
}

function decide(card, decision) {
  const before = decisions[card.index];
  if (decision === null || (before && before.decision === decision && decision !== "relabel")) {
    delete decisions[card.index];
  } else {
    let label = "";
    if (decision === "relabel") {
      label = card.editor.value();
      if (label === null) {
        say("Give the new label first.");
        card.editor.focus();
        return false;
      }
      if (before && before.decision === decision && before.label === label) {
        delete decisions[card.index];
        return true;
      }
    }
    decisions[card.index] = {decision, label};
  }
  say("");
  return true;
}

function csvCell(text) {
  const isFormula = /^'*[=+\-@\t\r]/.test(text);
  const isPlainNumber = /^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$/.test(text);
  if (isFormula && !isPlainNumber) text = "'" + text; // as in suspects.csv
  return /[,"\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function decisionsCsv() {
  const hasId = cards.some((card) => card.id !== undefined);
  const lines = [["index", ...(hasId ? ["id"] : []), "given_label", "decision", "new_label"]];
  for (const card of cards) {
    const entry = decisions[card.index];
    if (!entry) continue;
    const id = hasId ? [card.id || ""] : [];
    const cells = [String(card.index), ...id, labelText(card.given), entry.decision, entry.label];
    lines.push(cells.map(csvCell));
  }
  return lines.map((line) => line.join(",") + "\n").join("");
}

function save() {
  if (!Object.keys(decisions).length) return say("There is no decision to save yet.");
  const url = URL.createObjectURL(new Blob([decisionsCsv()], {type: "text/csv"}));
  make("a", {href: url, download: "decisions.csv"}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  say("");
}

// ---- the editor of a new label: {element, value() -> text or null, set(text), focus()}

function menuEditor(card, changed) {
  const select = make("select", {"aria-label": "new label"});
  if (card.suggested === null || card.suggested === card.given) {
    select.append(make("option", {value: ""}, "choose…"));
  }
  classes.forEach((name, k) => {
    if (k !== card.given) select.append(make("option", {value: k}, name));
  });
  if (card.suggested !== null && card.suggested !== card.given) select.value = card.suggested;
  select.addEventListener("change", changed);
  return {
    element: select,
    value: () => (select.value === "" ? null : classes[Number(select.value)]),
    set: (text) => { if (classes.includes(text)) select.value = classes.indexOf(text); },
    focus: () => select.focus(),
  };
}

const isValid = {
  classification: (text) => classes.includes(text),
  multi_label: (text) => text.split(";").every((t) => !t || classes.includes(t.replace(/^\?/, ""))),
  regression: (text, like) => text.split(";").length === like.split(";").length
    && text.split(";").every((t) => t.trim() !== "" && Number.isFinite(Number(t))),
};

function textEditor(card, changed) {
  const input = make("input", {type: "text", "aria-label": "new label", spellcheck: "false"});
  if (!isNumber && !isTags) input.setAttribute("list", "class-names");
  input.value = labelText(card.suggested);
  const check = () => {
    const valid = isValid[task](input.value, labelText(card.given));
    input.setAttribute("aria-invalid", String(!valid));
    return valid;
  };
  input.addEventListener("change", () => { if (check()) changed(); });
  return {
    element: input,
    value: () => (check() ? input.value : null),
    set: (text) => { input.value = text; },
    focus: () => input.focus(),
  };
}

function tagsEditor(card, changed) {
  const group = make("span", {class: "tags", role: "group", "aria-label": "new tags"});
  const buttons = classes.map((name, k) => {
    const button = make("button", {type: "button"}, name);
    button.addEventListener("click", () => {
      const isOn = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!isOn));
      changed();
    });
    group.append(button);
    return button;
  });
  const set = (text) => {
    const parts = text.split(";");
    classes.forEach((name, k) => {
      const state = parts.includes(name) ? "true" : parts.includes("?" + name) ? "mixed" : "false";
      buttons[k].setAttribute("aria-pressed", state);
    });
  };
  set(labelText(card.suggested));
  const marks = {true: "", mixed: "?"};
  return {
    element: group,
    value: () => classes.map((name, k) => [marks[buttons[k].getAttribute("aria-pressed")], name])
      .filter(([mark]) => mark !== undefined).map(([mark, name]) => mark + name).join(";"),
    set,
    focus: () => buttons[0].focus(),
  };
}

// ---- cards

function entry(name, content, className) {
  const parts = Array.isArray(content) ? content : [content];
  return [make("dt", {}, name), make("dd", className ? {class: className} : {}, ...parts)];
}

// A label to look at: tags that differ from the `other` label are marked, numbers are rounded.
function labelEntry(name, label, other) {
  const text = labelText(label);
  if (text === "") return entry(name, "(none)", "none");
  if (isNumber) {
    const rounded = text.split(";").map((number) => String(Number(Number(number).toPrecision(5))));
    return entry(name, rounded.join("; "));
  }
  if (!isTags) return entry(name, text);
  const others = labelText(other).split(";");
  return entry(name, text.split(";").map((tag) => (
    make("span", {class: others.includes(tag) ? "tag" : "tag other"}, tag))));
}

function blockElement(block) {
  const more = block.more ? ` … (${block.more} more)` : "";
  if (block.text !== undefined) return make("p", {class: "text"}, block.text + more);
  if (block.tokens) return make("p", {class: "tokens"}, block.tokens.join(" ") + more);
  const list = make("dl", {class: "features"});
  for (const [name, value] of block.features) {
    const term = make("dt", {title: name}, name);
    list.append(make("div", {}, term, make("dd", {}, value.replace(/^-/, "\u2212"))));
  }
  if (more) list.append(make("div", {}, make("dt", {}, `and ${block.more} more`)));
  return list;
}

function cardElement(card) {
  const given = labelText(card.given), suggested = labelText(card.suggested);
  const row = `row ${card.index}`;
  const title = card.id === undefined ? row : /^\d+$/.test(card.id) ? `${row}, id ${card.id}` : card.id;
  const element = make("li", {
    class: "card", tabindex: "-1", "data-index": card.index,
    "aria-label": `${title}: given ${given}, suggested ${suggested}`,
  });
  const head = make("div", {class: "name"}, make("span", {}, title));
  head.append(make("span", {}, card.suspect ? "suspect" : "not flagged"));
  const labels = make("dl", {class: "labels"}, ...labelEntry("given", card.given, card.suggested));
  labels.append(...(suggested === given || card.suggested === null
    ? entry("suggested", "no other label", "none")
    : labelEntry("suggested", card.suggested, card.given)));
  if (card.truth !== undefined) labels.append(...labelEntry("true label", card.truth, card.given));
  const why = make("dl", {class: "why"});
  const reasons = [["quality", card.q], ["margin", card.m, "bad"], ["alignment", card.a, "bad"],
    ["p-value", card.p], ["weight", card.w], ["visits", card.v]];
  for (const [name, value, mark] of reasons) {
    const isKnown = value !== null && value !== undefined;
    if (isKnown) why.append(make("div", {}, ...entry(name, signed(value), value < 0 ? mark : "")));
  }
  if (why.childElementCount === 4) why.classList.add("four");
  const pictures = make("div", {class: "pictures"}), below = [];
  for (const block of card.inputs) {
    const name = block.name ? [make("p", {class: "block-name"}, block.name)] : [];
    if (block.image) {
      const alt = `input of ${title}`;
      const image = make("img", {src: block.image, alt, class: block.small ? "small" : "large"});
      pictures.append(...name, image);
    } else {
      below.push(...name, blockElement(block));
    }
  }
  const facts = make("div", {class: "facts"}, labels, why);
  const top = make("div", {class: "top"}, ...(pictures.childElementCount ? [pictures] : []), facts);
  const buttons = make("div", {class: "decide"});
  card.buttons = {};
  for (const name of ["keep", "relabel", "drop"]) {
    const button = make("button", {type: "button", class: name, "aria-pressed": "false"}, name);
    button.addEventListener("click", () => { if (decide(card, name)) update(card); });
    card.buttons[name] = button;
    buttons.append(button);
  }
  const makeEditor = isNumber || classes.length > FEW ? textEditor : isTags ? tagsEditor : menuEditor;
  card.editor = makeEditor(card, () => {
    const was = decisions[card.index];
    if (was && was.decision === "relabel") delete decisions[card.index];
    if (decide(card, "relabel")) update(card);
  });
  card.buttons.relabel.after(card.editor.element);
  element.append(head, top, ...below, buttons);
  element.addEventListener("focusin", () => { current = card; mark(); });
  card.element = element;
  return element;
}

// ---- what is shown

let current = null, shown = [];

function mark() {
  for (const card of cards) {
    card.element.classList.toggle("current", card === current);
    card.element.tabIndex = card === (current || shown[0]) ? 0 : -1;
  }
}

function paint(card) {
  const entry = decisions[card.index];
  for (const [name, button] of Object.entries(card.buttons)) {
    const isChosen = Boolean(entry) && entry.decision === name;
    button.setAttribute("aria-pressed", String(isChosen));
    card.element.classList.toggle(name, isChosen);
  }
}

// A suggestion is only made for suspects: the other labels are left for the reader.
function toAccept() {
  return shown.filter((card) => card.suspect && !decisions[card.index]);
}

function count() {
  const of = (name) => Object.values(decisions).filter((entry) => entry.decision === name).length;
  const left = cards.length - Object.keys(decisions).length;
  byId("counts").textContent = `${shown.length} shown · ${of("keep")} keep · ${of("relabel")} relabel`
    + ` · ${of("drop")} drop · ${left} undecided`;
  const open = toAccept().length;
  byId("accept").textContent = `Accept ${open} suggestion${open === 1 ? "" : "s"}`;
  byId("accept").disabled = open === 0;
  byId("clear").disabled = left === cards.length;
}

function filter() {
  const value = (id) => byId(id).value;
  const has = (label, k) => k === "" || classesOf(label).includes(Number(k));
  const matches = (card) => {
    const entry = decisions[card.index], wanted = value("decided");
    const fits = wanted === "" || (wanted === "none" ? !entry
      : Boolean(entry) && (wanted === "any" || entry.decision === wanted));
    return fits && has(card.given, value("given")) && has(card.suggested, value("suggested"));
  };
  shown = cards.filter(matches);
  const key = value("sort");
  const rank = (card) => {
    const at = key === "g" || key === "s" ? classesOf(card[key === "g" ? "given" : "suggested"])[0]
      : card[key];
    return at === null || at === undefined ? Infinity : at;
  };
  if (key) shown.sort((a, b) => (rank(a) < rank(b) ? -1 : rank(a) > rank(b) ? 1 : 0));
  const visible = new Set(shown);
  for (const card of cards) card.element.hidden = !visible.has(card);
  byId("cards").append(...shown.map((card) => card.element));
  byId("nothing").hidden = shown.length > 0;
  if (!visible.has(current)) current = null;
  mark();
  count();
}

function update(card) {
  store();
  paint(card);
  if (byId("decided").value === "") return count();
  const place = shown.indexOf(card), hadFocus = card.element.contains(document.activeElement);
  filter(); // the card may leave the list; the next one takes its place
  if (hadFocus && card.element.hidden && shown.length) go(Math.min(place, shown.length - 1));
}

function go(place) {
  const card = shown[Math.max(0, Math.min(place, shown.length - 1))];
  if (!card) return;
  card.element.focus({preventScroll: true});
  card.element.scrollIntoView({block: "nearest"});
}

// ---- keys

function rowLength() {
  const top = shown.length ? shown[0].element.offsetTop : 0;
  return shown.filter((card) => card.element.offsetTop === top).length || 1;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !shown.length) return;
  const target = event.target, inList = byId("cards").contains(target);
  if (target.matches("select, input, textarea")) {
    if (event.key === "Escape") go(Math.max(0, shown.indexOf(current)));
    return;
  }
  const place = shown.indexOf(current);
  const steps = {j: 1, k: -1, ...(inList && {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: rowLength(), ArrowUp: -rowLength(),
  })};
  const decision = {1: "keep", 2: "relabel", 3: "drop"}[event.key];
  if (event.key in steps) {
    const next = place + steps[event.key];
    go(place < 0 ? 0 : next < 0 || next >= shown.length ? place : next);
  } else if (event.key === "Escape") {
    go(Math.max(0, place));
  } else if (inList && current && decision) {
    const card = current;
    if (decide(card, decision)) {
      update(card);
      if (!card.element.hidden && decisions[card.index]) go(place + 1);
    }
  } else if (inList && current && event.key === "u") {
    delete decisions[current.index];
    update(current);
  } else {
    return;
  }
  event.preventDefault();
});

// ---- buttons and menus

byId("accept").addEventListener("click", () => {
  for (const card of toAccept()) {
    const label = card.action === "relabel" ? labelText(card.suggested) : "";
    decisions[card.index] = {decision: card.action, label};
  }
  store();
  cards.forEach(paint);
  filter();
});

byId("clear").addEventListener("click", () => {
  const size = Object.keys(decisions).length;
  if (!window.confirm(`Undo all ${size} decisions?`)) return;
  decisions = {};
  store();
  cards.forEach(paint);
  filter();
});

byId("save").addEventListener("click", save);
byId("filters").addEventListener("change", filter);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("reset", () => setTimeout(filter));
for (const button of document.querySelectorAll("table.heat button")) {
  button.addEventListener("click", () => {
    byId("filters").reset();
    for (const id of ["given", "suggested"]) {
      const select = byId(id), k = button.dataset[id];
      if (![...select.options].some((option) => option.value === k)) {
        select.append(make("option", {value: k}, `${classes[k]} (0)`));
      }
      select.value = k;
    }
    setTimeout(() => {
      filter();
      byId("worst").scrollIntoView();
      go(0);
    });
  });
}

function fillMenus() {
  for (const name of ["given", "suggested"]) {
    const counts = new Map();
    for (const card of cards) {
      for (const k of classesOf(card[name])) counts.set(k, (counts.get(k) || 0) + 1);
    }
    for (const [k, size] of [...counts].sort((a, b) => a[0] - b[0])) {
      byId(name).append(make("option", {value: k}, `${classes[k]} (${size})`));
    }
  }
  const hidden = [isNumber && ".by-class", cards.every((card) => card.a === null) && ".has-a",
    cards.every((card) => card.p === null) && ".has-p"].filter(Boolean);
  for (const element of hidden.length ? document.querySelectorAll(hidden.join()) : []) {
    if (element.matches("option")) element.remove();
    else element.hidden = true;
  }
  if (!isNumber && !isTags && classes.length > FEW) {
    byId("class-names").append(...classes.map((name) => make("option", {value: name})));
  }
}

fillMenus();
load();
byId("cards").append(...cards.map(cardElement));
for (const card of cards) {
  const entry = decisions[card.index];
  if (entry && entry.decision === "relabel") card.editor.set(entry.label);
  paint(card);
}
filter();
