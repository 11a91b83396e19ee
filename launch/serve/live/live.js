"use strict";
const $ = name => document.getElementById(name), EVERY_MS = 250, KEPT_S = 120, SVG = "http://www.w3.org/2000/svg";
let picture = "", begun = performance.now(), history = [], drawn = 0;
const key = () => sessionStorage.getItem("key");
const headers = more => Object.assign(key() ? {Authorization: "Bearer " + key()} : {}, more || {});
const round = value => value === null || value === undefined ? "\u2013" :
  value >= 100 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));
const time = s => s === null || s === undefined ? "\u2013" : s < 1 ? round(s * 1e3) + " ms" : round(s) + " s";
const put = (name, text) => { const node = $(name); if (node && node.textContent !== text) node.textContent = text; };
function all(kind, name, work) {
  for (const node of document.querySelectorAll("[data-" + kind + "=\"" + CSS.escape(name) + "\"]")) work(node);
}
async function ask(path) {
  const answer = await fetch(path, {headers: headers(), cache: "no-store"});
  if (answer.status === 401) { $("locked").hidden = false; throw new Error("the API key is missing or wrong"); }
  $("locked").hidden = true;
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    throw new Error(said && said.error ? said.error.message : "status " + answer.status);
  }
  return answer;
}
async function look() {
  let wait = EVERY_MS;
  try {
    const seen = await (await ask("/live/figures")).json();
    if (seen.picture !== picture) {
      $("cluster").innerHTML = await (await ask("/live/cluster")).text();
      picture = seen.picture;
    }
    show(seen);
  } catch (error) {
    state(error instanceof TypeError ? "the service does not answer" : error.message, true);
    wait = 1000;
  }
  setTimeout(look, document.hidden ? 2000 : wait);
}
function state(text, waits) { put("state", text); $("state").className = waits ? "waits" : ""; }
function show(seen) {
  const missing = Object.values(seen.hosts).filter(host => host.state !== "present")
    .map(host => host.name + " " + host.state);
  state(seen.ended ? "done" : missing.length ? missing.join(", ") + (seen.ready ? "" : ": waiting") :
        seen.ready ? "running" : "the ranks connect", missing.length > 0 || !seen.ready);
  put("rate", round(seen.items_per_s) + " /s"); put("predicted", round(seen.predicted_per_s) + " /s");
  put("latency", time(seen.latency_s)); put("predicted-latency", time(seen.predicted_latency_s));
  put("items", seen.num_items.toLocaleString("en"));
  put("flight", seen.num_in_flight + " in flight" + (seen.waiting === undefined ? "" : ", " + seen.waiting + " waiting"));
  if (seen.places) put("places", seen.places[0] + " of " + seen.places[1]);
  const again = Object.values(seen.hosts).reduce((sum, host) => sum + host.num_restarts, 0);
  put("ranks", seen.present + " of " + seen.ranks + (again ? ", came again " + again + "\u00d7" : ""));
  put("bottleneck", seen.bottleneck || "none"); put("predicted-bottleneck", seen.predicted_bottleneck);
  for (const [rank, host] of Object.entries(seen.hosts)) drawHost(rank, host);
  for (const [ends, link] of Object.entries(seen.links)) drawLink(ends, link);
  events(seen.events);
  const now = (performance.now() - begun) / 1000;
  history.push([now, seen.items_per_s, seen.latency_s]);
  while (history.length && history[0][0] < now - KEPT_S) history.shift();
  if (now - drawn > 0.9) {
    drawn = now;
    chart($("rates"), 1, seen.predicted_per_s, "a second", 1);
    chart($("latencies"), 2, seen.predicted_latency_s, "ms", 1000);
  }
}
function drawHost(rank, host) {
  all("node", rank, node => {
    for (const name of ["lost", "joining", "awaited"]) node.classList.toggle(name, host.state === name);
    node.classList.toggle("bottleneck", host.bottleneck);
  });
  all("state", rank, node => {
    node.textContent = host.state !== "present" ? host.state : host.bottleneck ? "bottleneck" : "";
  });
  const share = value => value === null || value === undefined ? null : Math.round(value * 100) + "%";
  gauge("busy-" + rank, host.busy, "busy" + (share(host.busy) ? " " + share(host.busy) : "") +
        (share(host.predicted_busy) ? ", predicted " + share(host.predicted_busy) : ""));
  gauge("memory-" + rank, host.memory_share, host.memory);
}
function gauge(name, share, text) {
  all("gauge", name, node => node.setAttribute("width", Math.min(1, share || 0) * node.dataset.whole));
  all("said", name, node => { if (node.textContent !== text) node.textContent = text; });
}
function drawLink(ends, link) {
  all("link", ends, node => node.classList.toggle("bottleneck", link.bottleneck));
  all("lines", ends, node => node.querySelectorAll("tspan").forEach((part, number) => {
    const line = (link.lines || [])[number] || "";
    if (part.textContent !== line) part.textContent = line;
  }));
}
let told = "";
function events(list) {
  const last = list.length ? list.length + " " + list[list.length - 1].at : "";
  if (last === told) return;
  told = last;
  $("events").replaceChildren(...list.slice().reverse().map(event => {
    const item = document.createElement("li"), when = document.createElement("time");
    when.textContent = new Date(event.at * 1000).toLocaleTimeString("en-GB") + " ";
    item.append(when, event.text);
    return item;
  }));
}
function make(parent, kind, values, text) {
  const node = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
}
function steps(largest) {
  const power = 10 ** Math.floor(Math.log10(largest / 4));
  const step = [1, 2, 5, 10].map(times => times * power).find(each => largest / each <= 4.0001);
  return Array.from({length: Math.floor(largest / step + 1e-9) + 1}, (_, number) => number * step);
}
function chart(svg, column, predicted, unit, scale) {
  const [width, height, left, right, top, bottom] = [440, 200, 52, 12, 12, 34];
  const points = history.filter(row => row[column] !== null).map(row => [row[0], row[column] * scale]);
  const level = predicted * scale, now = history.length ? history[history.length - 1][0] : 0;
  const largest = 1.15 * Math.max(level, 1e-9, ...points.map(point => point[1]));
  const x = at => left + (width - left - right) * (1 - (now - at) / KEPT_S);
  const y = value => height - bottom - (height - top - bottom) * value / largest;
  svg.replaceChildren();
  for (const value of steps(largest)) {
    make(svg, "line", {class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value)});
    make(svg, "text", {class: "soft", "text-anchor": "end", x: left - 6, y: y(value) + 4}, round(value));
  }
  for (const ago of [120, 90, 60, 30, 0])
    make(svg, "text", {class: "soft", "text-anchor": "middle", x: x(now - ago), y: height - 18}, ago ? "-" + ago : "now");
  make(svg, "text", {class: "soft", "text-anchor": "end", x: width - right, y: height - 3}, "seconds");
  make(svg, "text", {class: "soft", x: left + 6, y: top + 10}, unit);
  make(svg, "line", {class: "predicted", x1: left, x2: width - right, y1: y(level), y2: y(level)});
  make(svg, "polyline", {points: points.map(point => x(point[0]).toFixed(1) + "," + y(point[1]).toFixed(1)).join(" ")});
}
const messages = [];
function bubble(text, kind) {
  const node = document.createElement("p");
  node.className = kind; node.textContent = text;
  $("said").append(node);
  return node;
}
// Of a server-sent event. Comments, such as the service's sign of life, and other fields are none of it.
const dataOf = part => part.split(/\r?\n/).filter(line => line.startsWith("data:"))
  .map(line => line.slice(5).replace(/^ /, "")).join("\n");
async function talk(event) {
  event.preventDefault();
  const text = $("question").value.trim();
  if (!text) return;
  $("question").value = "";
  messages.push({role: "user", content: text}); bubble(text, "mine");
  const node = bubble("", "answer");
  $("send").disabled = true;
  try {
    const answer = await fetch("/v1/chat/completions", {method: "POST", headers: headers({"Content-Type": "application/json"}),
      body: JSON.stringify({messages, stream: true})});
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let whole = false;
    for (let rest = "";;) {
      const {value, done} = await reader.read();
      if (done) break;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const data of parts.map(dataOf)) {
        if (!data) continue;
        if (data === "[DONE]") { whole = true; continue; }
        const piece = JSON.parse(data);
        if (piece.error) throw new Error(piece.error.message);
        const delta = piece.choices.length ? piece.choices[0].delta.content : "";
        if (delta) node.textContent += delta;
      }
    }
    if (!whole) throw new Error("the answer was cut off");
    messages.push({role: "assistant", content: node.textContent});
  } catch (error) {
    node.classList.add("failed"); node.textContent += " [" + error.message + "]";
    messages.pop();
  }
  $("send").disabled = false; $("question").focus();
}
$("unlock").addEventListener("submit", event => {
  event.preventDefault(); sessionStorage.setItem("key", $("key").value);
});
if ($("chat")) $("chat").addEventListener("submit", talk);
look();
