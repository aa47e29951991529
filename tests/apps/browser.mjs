// Debian's Chromium, headless, for the applications that are pages.
import { chromium } from "playwright-core";

export const browse = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    // Also in shared workers (Vite asks in one whether its server is back), where the page's own setting does not hold.
    "--ignore-certificate-errors",
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
  ],
});
