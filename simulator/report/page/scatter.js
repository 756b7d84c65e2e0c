// Every plan as a point: two metrics to choose, the region that the limits allow, the front, intervals, two rings.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const api = Bokeh.Plotting;
let drawn = null;

// Draws into #scatter; `view` holds x, y, isLog, hasBars and the plans, `heard` what to call for a plan.
async function drawScatter(view, heard) {
  for (const old of [...Bokeh.index]) old.remove(); // of the drawing before
  Bokeh.documents.length = 0;
  const holder = document.getElementById("scatter");
  const [x, y] = [metrics.get(view.x), metrics.get(view.y)];
  const plans = view.plans.filter((plan) => isDrawable(x, plan, view) && isDrawable(y, plan, view));
  const points = new Bokeh.ColumnDataSource({ data: columnsOf(plans, x, y) });
  const figure = api.figure({
    sizing_mode: "stretch_width", height: holder.clientWidth < 560 ? 340 : 560, min_border_right: 12,
    x_axis_type: view.isLog ? "log" : "linear", y_axis_type: view.isLog ? "log" : "linear",
    x_axis_label: axisTitle(x), y_axis_label: axisTitle(y), tools: "pan,wheel_zoom,box_zoom,tap,reset,save",
    output_backend: "canvas", background_fill_color: colour("back"), border_fill_color: colour("back"),
    outline_line_color: colour("line"), lod_threshold: null,
  });
  figure.toolbar.logo = null;
  figure.toolbar.autohide = true;
  styleAxes(figure, x, y);
  shadeKept(figure, x, y);
  const front = frontOf(plans.filter((plan) => groupOf(plan) === "ranked"), x, y);
  if (front.length > 1) {
    const along = front.map((plan) => [x.values[plan], y.values[plan]]);
    figure.line(along.map((at) => at[0]), along.map((at) => at[1]), { color: colour("front"), width: 1.5, dash: [5, 4] });
  }
  if (view.hasBars) drawIntervals(figure, plans, x, y);
  const glyphs = figure.scatter({ field: "x" }, { field: "y" }, {
    source: points, marker: { field: "marker" }, size: plans.length > 1500 ? 6 : 9, fill_color: { field: "colour" },
    line_color: { field: "colour" }, fill_alpha: 0.75, nonselection_fill_alpha: 0.75, nonselection_line_alpha: 1,
  });
  const rings = { near: ring(figure, 14, 2), chosen: ring(figure, 18, 3) };
  const hover = new Bokeh.HoverTool({ tooltips: null, renderers: [glyphs] });
  figure.add_tools(hover);
  figure.toolbar.active_inspect = hover;

  const planAt = (indices) => (indices.length ? plans[indices[0]] : null);
  points.connect(points.inspect, () => heard.onNear(planAt(points.inspected.indices)));
  points.connect(points.selected.change, () => {
    if (points.selected.indices.length) heard.onChosen(planAt(points.selected.indices));
  });
  holder.replaceChildren();
  await api.show(figure, holder);
  holder.setAttribute("aria-label", `${plans.length} plans: ${x.title} across, ${y.title} up, ${view.isLog ? "log" : "linear"}`);
  const place = (where, plan) => {
    const isThere = plan !== null && plans.includes(plan);
    where.data = isThere ? { x: [x.values[plan]], y: [y.values[plan]] } : { x: [], y: [] };
  };
  drawn = {
    plans: plans.length,
    figure,
    front,
    near: (plan) => place(rings.near, plan),
    chosen: (plan) => place(rings.chosen, plan),
  };
  return drawn;
}

const isDrawable = (metric, plan, view) => {
  const own = metric.values[plan];
  return own !== null && (!view.isLog || own > 0);
};

function columnsOf(plans, x, y) {
  const shades = Object.fromEntries(Object.keys(GROUPS).map((group) => [group, colour(group)]));
  return {
    x: plans.map((plan) => x.values[plan]),
    y: plans.map((plan) => y.values[plan]),
    colour: plans.map((plan) => shades[groupOf(plan)]),
    marker: plans.map((plan) => GROUPS[groupOf(plan)].marker),
  };
}

const axisTitle = (metric) => {
  const better = metric.less === null ? "" : metric.less ? " (less is better)" : " (more is better)";
  return `${metric.title}${better}`;
};

function styleAxes(figure, x, y) {
  for (const [axis, metric] of [[figure.xaxis, x], [figure.yaxis, y]]) {
    axis.axis_label_text_color = colour("text");
    axis.axis_label_text_font_style = "normal";
    axis.major_label_text_color = colour("faint");
    for (const line of ["axis_line_color", "major_tick_line_color", "minor_tick_line_color"]) axis[line] = colour("line");
    const formatter = new Bokeh.BasicTickFormatter();
    formatter.doFormat = (ticks) => ticks.map((tick) => FORMS[metric.unit](Number(tick.toPrecision(12))));
    axis.formatter = formatter;
  }
  for (const grid of [figure.xgrid, figure.ygrid]) grid.grid_line_color = colour("line");
}

function shadeKept(figure, x, y) {
  const ends = { left: x.least, right: x.most, bottom: y.least, top: y.most };
  const known = Object.fromEntries(Object.entries(ends).filter(([, end]) => end !== null)); // others: the frame's own
  if (!Object.keys(known).length) return;
  figure.add_layout(new Bokeh.BoxAnnotation({
    ...known, fill_color: colour("kept"), fill_alpha: 0.08,
    line_color: colour("kept"), line_dash: [6, 4], line_width: 1.5, level: "underlay",
  }));
}

function drawIntervals(figure, plans, x, y) {
  const across = plans.filter((plan) => x.intervals[plan]);
  const up = plans.filter((plan) => y.intervals[plan]);
  const look = { line_color: colour("faint"), line_width: 1.2, line_alpha: 0.6 };
  if (across.length) {
    const level = across.map((plan) => y.values[plan]);
    figure.segment(across.map((plan) => x.intervals[plan][0]), level, across.map((plan) => x.intervals[plan][1]), level, look);
  }
  if (up.length) {
    const level = up.map((plan) => x.values[plan]);
    figure.segment(level, up.map((plan) => y.intervals[plan][0]), level, up.map((plan) => y.intervals[plan][1]), look);
  }
}

function ring(figure, size, width) {
  const source = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
  figure.scatter({ field: "x" }, { field: "y" }, {
    source, size, fill_color: null, line_color: colour("text"), line_width: width,
  });
  return source;
}

// Plans that no other one beats in both metrics, in the order of x; none where nobody ranks by one of them.
function frontOf(plans, x, y) {
  if (x.less === null || y.less === null || x === y) return [];
  const [signX, signY] = [x.less ? 1 : -1, y.less ? 1 : -1];
  const ordered = [...plans].sort((one, other) =>
    signX * (x.values[one] - x.values[other]) || signY * (y.values[one] - y.values[other]));
  const front = [];
  for (const plan of ordered) {
    if (!front.length || signY * y.values[plan] < signY * y.values[front[front.length - 1]]) front.push(plan);
  }
  return front;
}
