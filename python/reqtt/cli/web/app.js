// A requester in the browser: asks with a Response Topic of its own, and takes only answers to what it asked.

import { clear, step } from "./sequence.js";

const TIMEOUT = 3; // seconds
const KEPT = 50; // rows of the table
const $ = (id) => document.getElementById(id);
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const random = (size) => crypto.getRandomValues(new Uint8Array(size));

// Made anew for each tab, a duplicated one too.
const clientId = `phone-${hex(random(4))}`;
const responseTopic = `clients/${clientId}/responses/${hex(random(8))}`;

const power = new Map(); // room -> "ON" or "OFF", as the retained state says
const pending = new Map(); // Correlation Data -> what waits for it
let connected = false;
let online;
let asking = false;
let dropped = 0;
let client;

class Failure extends Error {
  constructor(message, short) {
    super(message);
    this.short = short;
  }
}

// --- the request ---------------------------------------------------------------------------------

function request(topic, payload) {
  const correlationData = random(16);
  const key = hex(correlationData);
  const asked = performance.now();
  const since = () => performance.now() - asked;
  clear();
  $("sent").textContent = key;
  $("received").textContent = "-";
  $("latency").textContent = "-";
  $("response").textContent = "-";
  $("response").className = "";
  return new Promise((resolve, reject) => {
    const end = (settle, value) => {
      clearTimeout(entry.timer);
      pending.delete(key);
      settle(value);
    };
    const entry = {
      since,
      delivered: false,
      // That somebody subscribes is known from the PUBACK, or from the answer where that is faster.
      deliver() {
        if (!entry.delivered) step("broker", "lamp", `PUBLISH ${payload}`, { detail: "to the one who subscribes to the topic" });
        entry.delivered = true;
      },
      answer: (response) => end(resolve, response),
      fail: (failure) => end(reject, failure),
      timer: setTimeout(() => {
        step("lamp", "phone", `no answer within ${TIMEOUT} s`, { at: since(), kind: "bad" });
        client.removeOutgoingMessage(entry.messageId);
        entry.fail(new Failure(`no answer within ${TIMEOUT} s`, "timeout"));
      }, TIMEOUT * 1000),
    };
    pending.set(key, entry);
    step("phone", "broker", `PUBLISH ${topic} ${payload}`, {
      at: 0,
      detail: `Response Topic, Correlation Data ${key.slice(0, 8)}..., expires after ${TIMEOUT} s`,
    });
    const options = { qos: 1, properties: { responseTopic, correlationData, messageExpiryInterval: TIMEOUT } };
    const sent = client.publish(topic, payload, options, (error) => {
      if (error) entry.fail(new Failure(error.message, "refused"));
    });
    entry.messageId = sent.getLastMessageId();
  });
}

function onPuback({ messageId, reasonCode }) {
  const entry = [...pending.values()].find((it) => it.messageId === messageId);
  if (!entry) return; // The response was faster.
  const at = entry.since();
  if (reasonCode === 0x10) {
    step("broker", "phone", "PUBACK 0x10 No matching subscribers", { at, kind: "bad" });
    entry.fail(new Failure("nobody is listening", "nobody is listening (0x10)"));
    $("latency").textContent = `${at.toFixed(1)} ms to know it`;
  } else if (!reasonCode) {
    entry.deliver();
    step("broker", "phone", "PUBACK 0x00 Success", { at, kind: "quiet" });
  }
}

function onResponse(payload, properties) {
  const key = properties.correlationData ? hex(properties.correlationData) : "";
  const entry = pending.get(key);
  if (!entry) {
    // Late, or not for what this tab asked.
    dropped += 1;
    $("dropped").textContent = `Dropped, as nothing waited for them: ${dropped}.`;
    return;
  }
  const latency = entry.since();
  const status = Number(properties.userProperties?.__stat ?? 200);
  const kind = status < 400 ? "good" : "bad";
  let text = payload.toString();
  if (status >= 400) {
    try {
      const problem = JSON.parse(text);
      text = problem.detail ?? problem.title ?? text;
    } catch {
      // Some other body.
    }
  }
  entry.deliver();
  const detail = `Correlation Data ${key.slice(0, 8)}...`;
  step("lamp", "broker", `PUBLISH ${status} ${text}`, { kind, detail: `on the Response Topic, ${detail}` });
  step("broker", "phone", `PUBLISH ${status} ${text}`, { at: latency, kind, detail: `${detail} is what was sent` });
  $("received").textContent = key;
  $("latency").textContent = `${latency.toFixed(1)} ms`;
  $("response").textContent = `${status} ${text}`;
  $("response").className = kind;
  entry.answer({ status, text, latency });
}

// --- the phone -----------------------------------------------------------------------------------

const room = () => $("room").value.trim();

function roomProblem() {
  if (!room()) return "Name a room.";
  return /[/+#\0]/.test(room()) ? "A room is one level of a topic: without / + #" : "";
}

async function toggle() {
  if (asking) return;
  const wrong = roomProblem();
  if (wrong) {
    tell(wrong, "bad");
    $("room").focus();
    return;
  }
  const where = room();
  const wanted = power.get(where) === "ON" ? "OFF" : "ON";
  asking = true;
  show();
  try {
    const { status, text, latency } = await request(`cmnd/${where}/power`, wanted);
    const outcome = status < 400 ? text : `${status} ${text}`;
    tell(status < 400 ? `The lamp is ${text}.` : outcome, status < 400 ? "good" : "bad");
    remember(where, wanted, outcome, `${latency.toFixed(1)} ms`, status < 400 ? "good" : "bad");
  } catch (error) {
    tell(error.message, "bad");
    remember(where, wanted, error.short ?? error.message, "-", "bad");
  } finally {
    asking = false;
    show();
  }
}

async function runOrStop() {
  $("run").disabled = true;
  try {
    const answer = await fetch(online ? "lamp/stop" : "lamp/start", { method: "POST" });
    if (!answer.ok) tell(`the demo answered ${answer.status}`, "bad");
  } catch {
    tell("the demo does not answer: has it ended?", "bad");
  } finally {
    show();
  }
}

function tell(text, kind) {
  $("outcome").textContent = text;
  $("outcome").className = `outcome ${kind}`;
}

function remember(...facts) {
  const kind = facts.pop();
  const row = document.createElement("tr");
  for (const fact of facts) row.insertCell().textContent = fact;
  row.cells[2].className = kind;
  const table = $("history");
  table.querySelector(".empty")?.remove();
  table.prepend(row);
  while (table.rows.length > KEPT) table.lastElementChild.remove();
}

function show() {
  const state = power.get($("room").dataset.known) ?? "unknown";
  $("lamp").dataset.power = state;
  $("lamp").setAttribute("aria-label", `lamp: ${state}`);
  $("switch").setAttribute("aria-checked", String(power.get(room()) === "ON"));
  $("switch").disabled = !connected;
  $("switch").setAttribute("aria-busy", String(asking));
  $("connection").textContent = connected ? "connected" : "no connection";
  $("connection").className = `pill ${connected ? "good" : "bad"}`;
  $("run").disabled = !connected || online === undefined;
  $("run").textContent = online === false ? "Start the responder" : "Stop the responder";
  if (online !== undefined) {
    $("presence").textContent = online ? "The responder is running." : "The responder is stopped.";
  }
}

// --- the connection ------------------------------------------------------------------------------

function onMessage(topic, payload, packet) {
  if (topic === responseTopic) {
    onResponse(payload, packet.properties ?? {});
    return;
  }
  const [, where, what] = topic.split("/");
  if (what === "power") power.set(where, payload.toString());
  if (what === "presence") online = payload.toString() === "online";
  show();
}

function onConnect() {
  // Clean Start: there is nothing left of an earlier connection.
  client.subscribe([responseTopic, "state/+/+"], { qos: 1 }, (error) => {
    connected = !error;
    if (error) tell(`the broker refused the subscription: ${error.message}`, "bad");
    show();
  });
}

function onClose() {
  connected = false;
  for (const entry of [...pending.values()]) {
    // MQTT.js would send it again on the next connection, when nobody waits for it.
    client.removeOutgoingMessage(entry.messageId);
    entry.fail(new Failure("the connection broke", "disconnected"));
  }
  show();
}

const facts = await (await fetch("facts.json")).json();
$("room").value = facts.room;
$("room").dataset.known = facts.room;
$("response-topic").textContent = responseTopic;
$("client-id").textContent = clientId;
$("switch").addEventListener("click", toggle);
$("run").addEventListener("click", runOrStop);
$("room").addEventListener("input", show);
$("room").addEventListener("keydown", (event) => event.key === "Enter" && connected && toggle());
client = window.mqtt.connect(facts.broker, { protocolVersion: 5, clientId, resubscribe: false });
client.on("connect", onConnect);
client.on("close", onClose);
client.on("message", onMessage);
client.on("packetreceive", (packet) => packet.cmd === "puback" && onPuback(packet));
client.on("error", (error) => tell(error.message, "bad"));
show();
