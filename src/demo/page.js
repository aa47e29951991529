// The demo page: one WebSocket at a time, a log of what went both ways, and the proxy's counters as server-sent events.
// What a peer says is only ever set as text, never parsed as markup.
"use strict";

const LOG_ENTRIES_MAX = 200;   // a clock left running overnight must not fill the tab's memory
const SHOWN_CHARACTERS_MAX = 160;
const MEANINGS = {
  1000: "normal closure", 1001: "going away", 1002: "protocol error", 1003: "unsupported data", 1005: "no code was sent",
  1006: "no Close arrived", 1007: "invalid data", 1008: "policy violation", 1009: "message too big",
  1010: "extension missing", 1011: "server error", 1012: "service restart", 1013: "try again later", 1014: "bad gateway",
  1015: "TLS failure",
};

const $ = (id) => document.getElementById(id);
const scheme = location.protocol === "https:" ? "wss" : "ws";
let socket = null;
let last = null;   // what the last socket was opened with

// --- the log

function entry(kind, text, bytes, binary = false) {
  const arrow = { sent: ["↑", "sent"], received: ["↓", "received"], note: ["·", "note"] }[kind];
  const item = document.createElement("li");
  item.className = binary ? `${kind} binary` : kind;
  const cells = [clockTime(new Date()), arrow[0], bytes === undefined ? "" : size(bytes), shortened(text)];
  for (const content of cells) {
    const cell = document.createElement("span");
    cell.textContent = content;
    item.append(cell);
  }
  item.children[1].setAttribute("aria-label", arrow[1]);
  $("log").prepend(item);
  while ($("log").childElementCount > LOG_ENTRIES_MAX) $("log").lastElementChild.remove();
}

const clockTime = (date) =>
  [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":") +
  "." + String(date.getMilliseconds()).padStart(3, "0");
const shortened = (text) => text.length > SHOWN_CHARACTERS_MAX ? text.slice(0, SHOWN_CHARACTERS_MAX) + " …" : text;
const utf8Bytes = (text) => new TextEncoder().encode(text).length;

function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 * 1024 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

function hex(buffer) {
  const bytes = new Uint8Array(buffer, 0, Math.min(buffer.byteLength, 64));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ") + (buffer.byteLength > 64 ? " …" : "");
}

// --- the socket

function show(state) {
  $("state").textContent = state;
  $("state").dataset.state = state;
  $("open").disabled = state !== "closed";
  for (const id of ["send", "send-binary"]) $(id).disabled = state !== "open";
  $("close").disabled = state !== "open" && state !== "connecting";
}

// `opened` runs once the socket is open; the buttons of "what to try" use it.
function open(opened) {
  const offered = $("subprotocol").value.split(",").map((name) => name.trim()).filter(Boolean);
  const url = `${scheme}://${location.host}${$("server").value}`;
  let current;
  try {
    current = new WebSocket(url, offered);
  } catch (error) {   // a subprotocol that is no token, or named twice
    entry("note", error.message);
    return;
  }
  socket = current;
  last = { server: $("server").value, subprotocol: $("subprotocol").value };
  socket.binaryType = "arraybuffer";
  $("closed").hidden = true;
  show("connecting");
  entry("note", `opening ${url}` + (offered.length ? ` offering ${offered.join(", ")}` : ""));
  socket.onopen = () => {
    show("open");
    const details = [current.protocol && `subprotocol ${current.protocol}`, current.extensions].filter(Boolean);
    entry("note", ["open", ...details].join(", "));
    if (opened) opened();
  };
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") entry("received", data, utf8Bytes(data));
    else entry("received", hex(data), data.byteLength, true);
  };
  socket.onclose = ({ code, reason, wasClean }) => {
    if (socket !== current) return;
    socket = null;
    show("closed");
    $("closed-code").textContent = code;
    $("closed-meaning").textContent = MEANINGS[code] || (code >= 4000 ? "the application's own" : "");
    $("closed-reason").textContent = reason || "(none)";
    $("closed-clean").textContent = wasClean;
    $("closed").hidden = false;
    entry("note", `closed with ${code}${reason ? ` “${reason}”` : ""}, ${wasClean ? "clean" : "not clean"}`);
  };
}

function sendText(text) {
  socket.send(text);
  entry("sent", text, utf8Bytes(text));
}

// Bytes from "00 ff", "0x00,0xff" or "00ff"; null when it is none of these.
function parseHex(text) {
  const digits = text.replace(/0x/gi, "").replace(/[\s,:]/g, "");
  if (!/^(?:[0-9a-f]{2})*$/i.test(digits)) return null;
  return Uint8Array.from(digits.match(/../g) || [], (pair) => parseInt(pair, 16));
}

// --- what the buttons do

const on = (id, event, action) => $(id).addEventListener(event, (occurred) => {
  occurred.preventDefault();
  action();
});

on("open-form", "submit", () => open());
on("text-form", "submit", () => sendText($("text").value));
on("binary-form", "submit", () => {
  const bytes = parseHex($("binary").value);
  $("binary-error").textContent = bytes ? "" : "write bytes as pairs of hex digits, such as 00 ff";
  if (!bytes) return;
  socket.send(bytes);
  entry("sent", hex(bytes.buffer), bytes.length, true);
});
on("close-form", "submit", () => {
  $("close-error").textContent = "";
  try {
    socket.close(Number($("code").value), $("reason").value);
    show("closing");
  } catch (error) {   // browsers send 1000 and 3000-4999, and reasons of at most 123 bytes
    $("close-error").textContent = error.message;
  }
});
on("reconnect", "click", () => {
  $("server").value = last.server;
  $("subprotocol").value = last.subprotocol;
  open();
});
on("clear", "click", () => $("log").replaceChildren());

// Each trial needs a socket of its own kind: one that is open is left behind, the next begins.
function trial(server, subprotocol, opened) {
  if (socket) socket.close(1000);
  $("server").value = server;
  $("subprotocol").value = subprotocol;
  open(opened);
}
on("try-server-close", "click", () => trial("/echo", "", () => sendText("close 4001 some reason")));
on("try-large", "click", () => trial("/echo", "", () => sendText("x".repeat(1024 * 1024 + 1))));
on("try-nap", "click", () => trial("/nap", "", () => entry("note", "now wait ten seconds")));
on("try-subprotocol", "click", () => trial("/echo", "mqtt"));

// --- the counters

const grouped = new Intl.NumberFormat();
const events = new EventSource("/events");
events.onmessage = ({ data }) => {
  const counters = JSON.parse(data);
  for (const name of ["sessions_active", "sessions", "messages_from_clients", "messages_from_servers"]) {
    $(name.replaceAll("_", "-")).textContent = grouped.format(counters[name]);
  }
  for (const name of ["bytes_from_clients", "bytes_from_servers"]) {
    $(name.replaceAll("_", "-")).textContent = size(counters[name]);
  }
  const closes = Object.entries(counters.closes)
    .map(([code, count]) => `${code}\u00a0×\u00a0${grouped.format(count)}`);   // not broken across lines
  $("closes").textContent = closes.join("   ") || "none yet";
  $("counters-state").textContent = "live, by server-sent events through the proxy";
};
events.onerror = () => {
  $("counters-state").textContent = "the proxy does not answer; trying again";
};

$("scheme").textContent = scheme;
show("closed");
