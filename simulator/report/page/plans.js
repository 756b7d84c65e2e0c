// What the page knows of the plans, and values as the terminal shows them (simulator/report/formats.py).

const packed = Uint8Array.from(atob(document.getElementById("data").textContent), (letter) => letter.charCodeAt(0));
const data = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
const metrics = new Map(data.metrics.map((metric) => [metric.path, metric]));
const everyPlan = data.plans.map((_, plan) => plan);
const GROUPS = {
  ranked: { title: data.limits.length ? "keeps every limit" : "ranked", mark: "●", marker: "circle" },
  changing: { title: "changes the model's answers", mark: "▲", marker: "triangle" },
  breaking: { title: "breaks a limit", mark: "✕", marker: "x" },
};

const fact = (name, plan) => data.facts[name].texts[data.facts[name].at[plan]];
const value = (path, plan) => metrics.get(path).values[plan];
const interval = (path, plan) => metrics.get(path).intervals[plan] ?? null;
const groupOf = (plan) => fact("group", plan);

function shownNumber(number) {
  if (number === null || number === undefined) return "-";
  if (Number.isInteger(number) || Math.abs(number) >= 1000) return Math.round(number).toLocaleString("en-US");
  return number.toPrecision(3).replace(/(?:e\+?(-?)0*(\d+))$/, "e$1$2");
}

function shownTime(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  const [factor, unit] = Math.abs(seconds) < 1e-3 ? [1e6, "us"] : Math.abs(seconds) < 1 ? [1e3, "ms"] : [1, "s"];
  return `${shownNumber(seconds * factor)}\u00a0${unit}`;
}

const FORMS = {
  s: shownTime,
  frac: (part) => (part === null || part === undefined ? "-" : `${(100 * part).toFixed(1)}\u00a0%`),
  bytes: (bytes) => (bytes === null || bytes === undefined ? "-" : `${(bytes / 2 ** 30).toFixed(2)}\u00a0GiB`),
  "": shownNumber,
};
const shown = (path, number) => FORMS[metrics.get(path).unit](number);
const shownInterval = (path, ends) => (ends === null ? "" : `${shown(path, ends[0])} to ${shown(path, ends[1])}`);

const SHELL_COLUMNS = 96;

// The shell lines of a plan; a long one has a line per flag.
function commandOf(plan) {
  return data.launch[plan].map((places) => {
    const words = places.map((place) => data.flags[place]);
    const whole = words.join(" --");
    return whole.startsWith("#") || whole.length <= SHELL_COLUMNS ? whole : words.join(" \\\n    --");
  }).join("\n");
}

// [name, value] of what a plan is made of: its ops, its kinds of work, its memory.
function partsOf(table, plan) {
  const flat = table.parts[plan];
  const found = [];
  for (let place = 0; place < flat.length; place += 2) found.push([table.names[flat[place]], flat[place + 1]]);
  return found.sort((one, other) => other[1] - one[1]);
}

// What a person types above the table: words of a plan's name, and bounds on metrics such as ttft_s.p99<0.5.
function matcher(text) {
  const tests = [];
  for (const word of text.trim().split(/\s+/).filter(Boolean)) {
    const bound = /^([\w.]+)(<=|>=|<|>|=)(.*)$/.exec(word);
    if (!bound) {
      const wanted = word.toLowerCase();
      tests.push((plan) => `${data.plans[plan]} ${fact("limited by", plan)}`.toLowerCase().includes(wanted));
      continue;
    }
    const [, path, sign, end] = bound;
    if (!metrics.has(path)) return { error: `no metric is called ${path}` };
    const limit = Number(end);
    if (end === "" || Number.isNaN(limit)) return { error: `${end || "nothing"} is no number` };
    const holds = { "<=": (v) => v <= limit, ">=": (v) => v >= limit, "<": (v) => v < limit, ">": (v) => v > limit,
      "=": (v) => v === limit }[sign];
    tests.push((plan) => value(path, plan) !== null && holds(value(path, plan)));
  }
  return { keeps: (plan) => tests.every((test) => test(plan)) };
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, given] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), given);
    else if (given !== null && given !== false) made.setAttribute(name, given === true ? "" : given);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function pairs(rows) {
  return element("dl", { class: "pairs" },
    ...rows.map(([name, ...shownAs]) => element("div", {}, element("dt", {}, name), element("dd", {}, ...shownAs))));
}
