// An authenticator app (RFC 6238: SHA-1, six digits, 30 s), and what people do with one.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";

const STEP_MS = 30_000;
const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

function bytesOf(base32) {
  const bits = [...base32].map((char) => ALPHABET.indexOf(char).toString(2).padStart(5, "0"));
  return Buffer.from(bits.join("").match(/.{8}/g).map((byte) => Number.parseInt(byte, 2)));
}

export class Authenticator {
  #key;
  #last = 0;

  constructor(secret) {
    assert.match(secret, /^[A-Z2-7]{32}$/);
    this.#key = bytesOf(secret);
  }

  /** A code that was not shown before: of the present step, or of the next, which counts too. */
  code() {
    this.#last = Math.max(this.#last + 1, Math.floor(Date.now() / STEP_MS));
    const counter = Buffer.alloc(8);
    counter.writeBigUInt64BE(BigInt(this.#last));
    const mac = createHmac("sha1", this.#key).update(counter).digest();
    const number = mac.readUInt32BE(mac.at(-1) & 0xf) & 0x7fffffff;
    return String(number % 1_000_000).padStart(6, "0");
  }
}

/** Set up a second factor in its dialog, which is open; returns the app that has the secret. */
export async function setUpSecondFactor(page, password) {
  const dialog = page.getByRole("dialog", { name: "Second factor" });
  await dialog.getByLabel("Your password").fill(password);
  await dialog.getByRole("button", { name: "Set up" }).click();
  const drawn = await dialog.getByRole("img", { name: "QR code of the secret" }).locator("path").getAttribute("d");
  assert.ok(drawn.length > 1000, "the QR code is drawn");
  await dialog.getByText("It cannot be scanned").click();
  const secret = await dialog.getByTestId("secret").innerText();
  const app = new Authenticator(secret.replaceAll(/\s/g, ""));
  await dialog.getByLabel("Code from your authenticator").fill(app.code());
  await dialog.getByRole("button", { name: "Turn it on" }).click();
  await page.getByText("Your second factor is set up.").waitFor();
  return app;
}

/** Answer the question for a code, which has come up by itself. */
export async function showCode(page, code) {
  const dialog = page.getByRole("dialog", { name: "Show that it is you" });
  await dialog.getByLabel("Code from your authenticator").fill(code);
  await dialog.getByRole("button", { name: "Go on" }).click();
}
