// Headless Firefox, driven by WebDriver BiDi over npm's ws. Ends exactly the process it started.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WebSocket } from "./peer.mjs";

const READY_MS = 60_000;

/** It keeps to loopback: its own background traffic is switched off. */
const PREFERENCES = {
  "app.normandy.enabled": false,
  "app.update.auto": false,
  "app.update.disabledForTesting": true,
  "browser.safebrowsing.malware.enabled": false,
  "browser.safebrowsing.phishing.enabled": false,
  "browser.safebrowsing.update.enabled": false,
  "browser.shell.checkDefaultBrowser": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "extensions.update.enabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "network.proxy.type": 0,
  "services.settings.server": "data:,",
  "toolkit.telemetry.reportingpolicy.firstRun": false,
};

export class Firefox {
  #calls = new Map();
  #next = 0;

  static async start(executable = process.env.FIREFOX ?? "/usr/bin/firefox-esr") {
    const firefox = new Firefox();
    firefox.profile = mkdtempSync(join(tmpdir(), "wsluice-firefox-"));
    const lines = Object.entries(PREFERENCES).map(([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});`);
    writeFileSync(join(firefox.profile, "user.js"), lines.join("\n"));
    firefox.child = spawn(executable, ["--headless", "--no-remote", "--profile", firefox.profile, "--remote-debugging-port=0"], {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, HOME: firefox.profile, MOZ_CRASHREPORTER_DISABLE: "1" },
    });
    process.once("exit", () => firefox.child.kill("SIGKILL"));
    firefox.exited = once(firefox.child, "exit");
    const address = await firefox.#address();
    firefox.socket = new WebSocket(`${address}/session`);
    await once(firefox.socket, "open");
    firefox.socket.on("message", (text) => firefox.#take(JSON.parse(text)));
    await firefox.call("session.new", { capabilities: { alwaysMatch: { acceptInsecureCerts: true } } });
    const { contexts } = await firefox.call("browsingContext.getTree", {});
    firefox.context = contexts[0].context;
    return firefox;
  }

  /** It says where it listens. */
  #address() {
    let said = "";
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`Firefox is not ready:\n${said}`)), READY_MS);
      this.exited.then(() => reject(new Error(`Firefox has ended:\n${said}`)));
      this.child.stderr.setEncoding("utf8").on("data", (text) => {
        said += text;
        const found = /WebDriver BiDi listening on (ws:\S+)/.exec(said);
        if (!found) return;
        clearTimeout(late);
        resolve(found[1]);
      });
    });
  }

  #take({ id, type, result, error, message }) {
    const call = this.#calls.get(id);
    if (!call) return;
    this.#calls.delete(id);
    if (type === "success") call.resolve(result);
    else call.reject(new Error(`${error}: ${message}`));
  }

  call(method, params) {
    const id = this.#next += 1;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.socket.send(JSON.stringify({ id, method, params }));
    });
  }

  goto(url) {
    return this.call("browsingContext.navigate", { context: this.context, url, wait: "complete" });
  }

  /** The value of an expression in the page, by way of JSON; a promise is awaited. */
  async evaluate(expression) {
    const { result, exceptionDetails } = await this.call("script.evaluate", {
      expression: `(async () => JSON.stringify(await (${expression})))()`, target: { context: this.context }, awaitPromise: true,
    });
    if (exceptionDetails) throw new Error(exceptionDetails.text);
    return result.type === "undefined" ? undefined : JSON.parse(result.value);
  }

  async close() {
    this.child.kill("SIGTERM");
    await this.exited;
    rmSync(this.profile, { recursive: true, force: true });
  }
}
