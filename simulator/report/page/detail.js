// One plan in full: its command, its metrics with intervals, where time and memory go, how its server is set.

const PARTS = 7; // colours of parts; idle and what is left have greys

function drawDetail(plan) {
  const holder = document.getElementById("detail");
  const command = commandOf(plan);
  const group = GROUPS[groupOf(plan)];
  const said = ["against the best", "notes"].flatMap((name) => fact(name, plan).split("\n")).filter(Boolean);
  holder.replaceChildren(
    element("h2", {}, data.plans[plan]),
    element("p", { class: groupOf(plan) === "ranked" ? "faint" : "warning" }, `${group.mark} ${group.title}${because(plan)}`),
    ...said.map((sentence) => element("p", { class: "faint" }, sentence)),
    element("div", { class: "controls" }, element("h3", {}, "Start it"), copyButton(command)),
    element("pre", { id: "command" }, command),
    element("h3", {}, "What limits it"),
    ...limitsOf(plan),
    element("h3", {}, "Where a mean request spends its time"),
    requestBar(plan),
    ...poolsOf(data.ops, plan).flatMap((pool) => [
      element("h3", {}, `What the ${pool ? `${pool} ` : ""}devices do`),
      stack(partsOf(data.ops[pool], plan), FORMS.frac, 1),
    ]),
    ...poolsOf(data.memory, plan).flatMap((pool) => memoryBar(pool, plan)),
    element("details", { open: innerWidth > 860 }, element("summary", {}, "Metrics, with 90 % intervals"), pairs(metricRows(plan))),
    element("details", {}, element("summary", {}, "Settings of the server"), pairs(settingsOf(plan))),
    element("details", {}, element("summary", {}, "Engines that run it"),
      pairs(fact("runs on", plan).split("\n").map((line) => line.split(/: (.*)/s).slice(0, 2)))),
  );
}

// Pools that this plan has, one without a name where it has no pools.
const poolsOf = (table, plan) => Object.keys(table).filter((pool) => table[pool].parts[plan].length);

function because(plan) {
  const listed = [fact("breaks", plan), fact("changes answers", plan)].filter(Boolean);
  return listed.length ? `: ${listed.join("; ")}` : "";
}

function limitsOf(plan) {
  return poolsOf(data.kinds, plan).map((pool) =>
    element("div", {}, pool ? `${pool}: ` : "", element("strong", {}, limitedBy(pool, plan)),
      stack(partsOf(data.kinds[pool], plan), FORMS.frac, 1)));
}

function limitedBy(pool, plan) {
  const named = fact("limited by", plan).split("; ");
  return pool ? (named.find((part) => part.startsWith(pool)) ?? "").replace(`${pool}: `, "") : named[0];
}

function requestBar(plan) {
  const [queue, ttft, e2e] = ["queue_s.mean", "ttft_s.mean", "e2e_s.mean"].map((path) => value(path, plan) ?? 0);
  return stack([["queue", queue], ["prefill", ttft - queue], ["decode", e2e - ttft]], FORMS.s, e2e);
}

function memoryBar(pool, plan) {
  const parts = partsOf(data.memory[pool], plan);
  const used = parts.reduce((sum, [, bytes]) => sum + bytes, 0);
  const whole = data.memory_bytes ?? used;
  const free = whole > used ? [["not used", whole - used]] : [];
  return [element("h3", {}, `Memory of a ${pool ? `${pool} ` : ""}device`), stack([...parts, ...free], FORMS.bytes, whole)];
}

// Parts of a whole side by side, and what each is; nothing is left out: the key has every part.
function stack(parts, form, whole) {
  const kept = parts.filter(([, part]) => part > 0);
  let named = 0;
  const shades = kept.map(([name]) => (["idle", "not used", "waiting for requests"].includes(name) ? "idle"
    : named < PARTS ? `part${named++}` : "other"));
  const bar = element("div", { class: "stack", role: "img",
    "aria-label": kept.map(([name, part]) => `${name} ${form(part)}`).join(", ") },
    ...kept.map(([name, part], place) => element("span", { title: `${name} ${form(part)}`,
      style: `width:${(100 * part) / whole}%;background:var(--${shades[place]})` })));
  const key = element("ul", { class: "key" }, ...kept.map(([name, part], place) =>
    element("li", {}, element("i", { class: "swatch", style: `background:var(--${shades[place]})` }), `${name} ${form(part)}`)));
  return element("div", {}, bar, key);
}

function metricRows(plan) {
  return [...metrics.values()].filter((metric) => metric.values[plan] !== null).map((metric) => {
    const ends = interval(metric.path, plan);
    const own = shown(metric.path, metric.values[plan]);
    if (ends === null) return [metric.title, own];
    return [metric.title, own, element("span", { class: "faint" }, ` (${shownInterval(metric.path, ends)})`), range(ends, metric.values[plan])];
  });
}

// An interval as a bar from nothing to its upper end, the value a tick on it.
function range([low, high], middle) {
  const at = (number) => `${(100 * Math.min(number, high)) / (high || 1)}%`;
  return element("span", { class: "range", "aria-hidden": "true" },
    element("i", { style: `left:${at(low)};right:0` }), element("b", { style: `left:${at(middle)}` }));
}

function settingsOf(plan) {
  return Object.entries(data.settings)
    .map(([name, own]) => [name, own.texts[own.at[plan]]])
    .filter(([, text]) => text !== "");
}

function copyButton(text) {
  const button = element("button", { type: "button", class: "act", id: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text)) ? "Copied" : "Select it and copy";
  });
  return button;
}

// Browsers give the clipboard to trusted places alone; elsewhere a selection is copied as by hand.
async function copied(text) {
  if (navigator.clipboard) {
    const isDone = await navigator.clipboard.writeText(text).then(() => true, () => false);
    if (isDone) return true;
  }
  const field = element("textarea", { style: "position:fixed;opacity:0" });
  field.value = text;
  document.body.append(field);
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  return isDone;
}
