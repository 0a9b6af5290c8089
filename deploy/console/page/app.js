// The page draws what the server tells it; it keeps no state of its own but the choice of colours and of a fault.

const LANES = ["faults", "leader", "store", "api", "hosts", "nodes"];
const picture = {};
const at = (id) => document.getElementById(id);

// element("li", {class: "good"}, "text", child): every text is set as text, never as markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// What did not change keeps its element. `draw(item, kept)` may bring an old element up to date instead of making one,
// so that a button is never taken away between the press and the release of a mouse.
function redraw(parent, items, keyOf, draw) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map((item) => {
    const key = String(keyOf(item));
    const content = JSON.stringify(item);
    const kept = old.get(key);
    if (kept && kept.dataset.content === content) return kept;
    const made = draw(item, kept);
    made.dataset.key = key;
    made.dataset.content = content;
    return made;
  });
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  const staying = new Set(wanted);
  for (const child of [...parent.children]) if (!staying.has(child)) child.remove();
  let next = parent.firstElementChild;
  for (const each of wanted) {
    if (each === next) next = next.nextElementSibling;
    else parent.insertBefore(each, next);
  }
  if (focused && document.activeElement === document.body) parent.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

function facts(pairs) {
  const list = element("dl");
  for (const [name, value] of pairs) list.append(element("dt", {}, name), element("dd", {}, String(value)));
  return list;
}

function newMember(host) {
  const kill = element("button", { type: "button", "data-kill": host });
  kill.addEventListener("click", () => inject("kill", `${host}/etcdlite`, 0));
  return element("li", { "data-member": host }, element("div"), kill);
}

function drawMember(member, kept) {
  const card = kept ?? newMember(member.host);
  const [words, kill] = card.children;
  const tone = { leader: "lead", follower: "good", learner: "busy" }[member.role] ?? "bad";
  card.className = tone;
  card.dataset.role = member.role;
  words.replaceChildren(element("strong", {}, member.host), element("span", { class: `role ${tone}` }, member.role),
    member.error ? element("p", {}, member.error) : facts([["term", member.term], ["log index", member.index],
      ["applied", member.applied], ["revision", member.revision], ["database", `${Math.round(member.size / 1024)} KiB`]]));
  kill.hidden = !member.offered;
  kill.disabled = member.role === "unreachable";
  kill.textContent = member.role === "leader" ? "Kill the leader" : "Kill";
  return card;
}

function drawHost(host) {
  const units = host.units.map((unit) => element("li",
    { class: `chip ${unit.state === "running" ? "good" : "bad"}`, title: `${unit.state}, ${unit.restarts} restarts` },
    unit.restarts ? `${unit.name} ×${unit.restarts}` : unit.name));
  const running = host.up && host.units.every((unit) => unit.state === "running");
  return element("li", { class: running ? "good" : "bad", "data-host": host.name },
    element("strong", {}, host.name), element("span", { class: "role" }, host.up ? `${host.role}, ${host.address}` : "off"),
    element("ul", { class: "units" }, ...units));
}

function podTone(pod) {
  if (["Running", "Succeeded", "Completed"].includes(pod.state)) return pod.ready || pod.state !== "Running" ? "good" : "busy";
  return ["Pending", "ContainerCreating", "PodInitializing", "Terminating"].includes(pod.state) ? "busy" : "bad";
}

function drawPod(pod) {
  const title = `${pod.namespace}/${pod.name}: ${pod.state}, ${pod.address || "no address"}, ${pod.restarts} restarts`;
  return element("li", { class: `chip ${podTone(pod)}`, title }, pod.name, element("span", { class: "unseen" }, ` ${pod.state}`));
}

function drawNode(node) {
  const words = [node.ready ? "ready" : "not ready", node.cordoned ? "cordoned" : "", ...node.pressure].filter(Boolean);
  const box = element("div", { class: `node ${node.ready ? "good" : "bad"}`, "data-node": node.name },
    element("strong", {}, node.title ?? node.name), element("span", { class: "role" }, node.name ? words.join(", ") : ""));
  const list = element("ul");
  redraw(list, node.pods, (pod) => pod.uid, drawPod);
  box.append(list);
  return box;
}

function drawNodes() {
  const { shown = [], all = 0 } = picture.pods ?? {};
  const known = (picture.nodes ?? []).map((node) => ({ ...node, pods: shown.filter((pod) => pod.node === node.name) }));
  const names = new Set(known.map((node) => node.name));
  const waiting = shown.filter((pod) => !names.has(pod.node));
  if (waiting.length) known.push({ name: "", title: "no node", ready: false, cordoned: false, pressure: [], pods: waiting });
  redraw(at("nodes"), known, (node) => node.name, drawNode);
  at("hidden-pods").textContent = all > shown.length ? `${all - shown.length} of ${all} pods are not shown.` : "";
}

function drawEvent(event) {
  const many = event.count > 1 ? ` (×${event.count})` : "";
  return element("tr", { class: event.type === "Warning" ? "warning" : "" },
    ...[new Date(event.time).toLocaleTimeString(), event.type, event.reason, event.object, event.message + many]
      .map((text) => element("td", {}, text)));
}

// ---- faults ------------------------------------------------------------------------------------

const offered = (fault) => (picture.faults?.kinds ?? []).find((kind) => kind.name === fault);
const offers = (fault, target) => offered(fault)?.targets.includes(target) ?? false;

function options(select, values) {
  if (JSON.stringify(values) === select.dataset.content) return;
  const chosen = select.value;
  select.replaceChildren(...values.map((value) => element("option", { value }, value)));
  select.dataset.content = JSON.stringify(values);
  if (values.includes(chosen)) select.value = chosen;
}

function drawFaults() {
  options(at("fault"), (picture.faults?.kinds ?? []).map((kind) => kind.name));
  const kind = offered(at("fault").value);
  options(at("target"), kind?.targets ?? []);
  at("seconds").disabled = !(kind?.lasting ?? true);
  at("about").textContent = kind?.about ?? "";
  redraw(at("settings"), kind?.settings ?? [], (knob) => `${kind.name} ${knob.name}`, drawSetting);
  redraw(at("active"), picture.faults?.active ?? [], (each) => each.id, (each) => {
    const undo = element("button", { type: "button", "data-focus": each.id }, "Undo");
    undo.setAttribute("aria-label", `Undo ${each.fault} ${each.target}`);
    undo.addEventListener("click", () => send("DELETE", `faults/${encodeURIComponent(each.id)}`));
    const until = each.until ? `, until ${new Date(each.until * 1000).toLocaleTimeString()}` : "";
    return element("li", {}, element("span", {}, `${each.fault} ${each.target}${until}`), undo);
  });
}

function drawSetting(knob) {
  const field = knob.choices.length
    ? element("select", {}, ...knob.choices.map((choice) => element("option", { value: choice }, choice)))
    : element("input", { type: "text" });
  field.name = knob.name;
  field.value = knob.default;
  return element("label", { title: knob.help }, knob.name, field);
}

const settings = () => Object.fromEntries([...at("settings").querySelectorAll("select, input")].map((field) => [field.name, field.value]));

async function send(method, path, body) {
  at("refusal").textContent = "";
  try {
    const answer = await fetch(path, {
      method, headers: { "Content-Type": "application/json" }, body: body && JSON.stringify(body),
    });
    if (!answer.ok) at("refusal").textContent = (await answer.json()).error;
  } catch (error) {
    at("refusal").textContent = `The console does not answer: ${error.message}`;
  }
}

const inject = (fault, target, seconds, values = {}) => send("POST", "faults", { fault, target, seconds, settings: values });

// ---- time line ---------------------------------------------------------------------------------

function drawTimeline() {
  const { now, spans, rates: all } = picture.timeline;
  const width = 60 * Number(at("minutes").value);
  const rates = all.filter(([time]) => time >= now - width);
  const [left, right, row, curve] = [70, 1000, 22, 60];
  const x = (time) => left + Math.max(0, 1 - (now - time) / width) * (right - left);
  const height = LANES.length * row + curve + 24;
  const svg = drawing("svg", { viewBox: `0 0 ${right} ${height}`, role: "img", "aria-label": said(spans, now) });
  LANES.forEach((lane, index) => {
    const y = index * row;
    svg.append(drawing("line", { class: "lane", x1: left, x2: right, y1: y + row - 2, y2: y + row - 2 }),
      drawing("text", { x: 0, y: y + 14 }, lane));
    for (const span of spans.filter((each) => each.lane === lane && (each.end ?? now) > now - width)) svg.append(drawSpan(span, x, y, row, now));
  });
  svg.append(drawing("text", { x: 0, y: LANES.length * row + 16 }, "writes/s"), ...drawRate(rates, x, LANES.length * row, curve));
  for (let step = 0; step <= 5; step += 1) {
    const seconds = (step * width) / 5;
    svg.append(drawing("text", { x: x(now - seconds), y: height - 4, "text-anchor": step ? "middle" : "end" },
      step ? `−${seconds} s` : "now"));
  }
  at("timeline").replaceChildren(svg);
}

function drawSpan(span, x, y, row, now) {
  const [from, to] = [x(span.start), Math.max(x(span.end ?? now), x(span.start) + 3)];
  const group = drawing("g", { class: `span ${span.lane}` },
    drawing("title", {}, `${span.text}: ${((span.end ?? now) - span.start).toFixed(1)} s`),
    drawing("rect", { x: from, y: y + 2, width: to - from, height: row - 6, rx: 2 }));
  if (to - from > span.text.length * 5.6) group.append(drawing("text", { x: from + 4, y: y + 14 }, span.text));
  return group;
}

function drawRate(rates, x, top, height) {
  const most = Math.max(1, ...rates.map(([, rate]) => rate));
  const y = (rate) => top + height - (rate / most) * (height - 12);
  const points = rates.map(([time, rate]) => `${x(time).toFixed(1)},${y(rate).toFixed(1)}`).join(" ");
  return [drawing("polyline", { class: "rate", points }), drawing("text", { x: 0, y: top + 32 }, `≤ ${Math.round(most)}`)];
}

const said = (spans, now) => "Time line. " + spans.slice(-12)
  .map((span) => `${span.text}, ${span.end === null ? "since" : ""} ${Math.round(now - span.start)} seconds ago`).join("; ");

// ---- reading the stream ------------------------------------------------------------------------

let leader = "";
function announceLeader() {
  const found = (picture.members ?? []).find((member) => member.role === "leader");
  const name = found ? `${found.host} leads term ${found.term}` : "no leader";
  if (name !== leader) at("announcer").textContent = name;
  leader = name;
}

const DRAW = {
  cluster: () => { at("cluster").textContent = picture.cluster.name; },
  api: () => { at("connection").textContent = picture.api.error ? `API: ${picture.api.error}` : "API ready"; },
  members: () => { redrawMembers(); announceLeader(); },
  hosts: () => redraw(at("hosts"), picture.hosts, (host) => host.name, drawHost),
  nodes: drawNodes,
  pods: drawNodes,
  events: () => redraw(at("events"), picture.events, (event) => event.uid, drawEvent),
  faults: () => { drawFaults(); redrawMembers(); },
  timeline: drawTimeline,
};

// What a card offers depends on the catalogue too, so it is part of what a card is compared by.
function redrawMembers() {
  const members = (picture.members ?? []).map((each) => ({ ...each, offered: offers("kill", `${each.host}/etcdlite`) }));
  redraw(at("members"), members, (member) => member.host, drawMember);
}

function follow() {
  const stream = new EventSource("stream");
  stream.onmessage = (message) => {
    const changed = JSON.parse(message.data);
    Object.assign(picture, changed);
    for (const section of Object.keys(changed)) DRAW[section]?.();
  };
  stream.onerror = () => { at("connection").textContent = "the console does not answer; trying again…"; };
  stream.onopen = () => DRAW.api && picture.api && DRAW.api();
}

function colours(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").setAttribute("aria-pressed", String(theme === "dark"));
}

at("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", next);
  colours(next);
});
at("minutes").addEventListener("change", drawTimeline);
at("fault").addEventListener("change", drawFaults);
at("break").addEventListener("submit", (event) => {
  event.preventDefault();
  inject(at("fault").value, at("target").value, at("seconds").disabled ? 0 : Number(at("seconds").value), settings());
});
const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
colours(localStorage.getItem("theme") ?? preferred);
follow();
