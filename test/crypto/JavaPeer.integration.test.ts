import { Encryption, Keys } from "@millrace/crypto"
import * as fc from "fast-check"
import { Redacted } from "effect"
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { sealed, told, within } from "./support.ts"

const source = fileURLToPath(new URL("./fixtures/EnvelopePeer.java", import.meta.url))

let peer: ChildProcessWithoutNullStreams
let answers: AsyncIterator<string>

beforeAll(() => {
  peer = spawn("java", ["-Xmx64m", "-XX:+UseSerialGC", source])
  answers = createInterface({ input: peer.stdout })[Symbol.asyncIterator]()
})

afterAll(() => {
  peer.kill()
})

const ask = async (words: ReadonlyArray<string>): Promise<string> => {
  peer.stdin.write(`${words.join(" ")}\n`)
  const { value } = await answers.next()
  return value ?? "the peer has ended"
}

const word = (value: string | Uint8Array | undefined): string =>
  value === undefined ? "-" : Buffer.from(value as string).toString("hex") || "."

const cases = fc.record({
  algorithm: fc.constantFrom("aes256Gcm" as const, "xaes256Gcm" as const),
  keyId: fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }),
  secret: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  body: fc.uint8Array({ maxLength: 200 }),
  channel: fc.string({ unit: "grapheme", minLength: 1, maxLength: 12 }),
  key: fc.option(fc.uint8Array({ maxLength: 8 }), { nil: undefined }),
  contentType: fc.option(fc.constantFrom("application/json", ""), { nil: undefined }),
  tenant: fc.option(fc.constantFrom("a", "é", ""), { nil: undefined })
})

describe("a peer in Java with javax.crypto alone", () => {
  it("F10 reads our bodies, and writes bodies that we read", { timeout: 120_000 }, () =>
    fc.assert(
      fc.asyncProperty(cases, async ({ algorithm, body, channel, contentType, key, keyId, secret, tenant }) => {
        const layer = Keys.layerMemory({ keys: { [keyId]: Redacted.make(secret) }, writing: keyId })
        const encryption = Encryption.make({ algorithm, bind: ["tenant", "a-first"] })
        const headers: Record<string, string> = tenant === undefined ? {} : { tenant }
        const context: Encryption.Context = { channel, key, contentType, headers }
        const place = [word(channel), word(key), word(contentType)]
        const bound = [word("a-first"), "-", word("tenant"), word(tenant)]

        const ours = await within(() => sealed(encryption, body, context), layer)
        assert.strictEqual(
          await ask(["open", word(secret), ...place, word(ours), ...bound]),
          Buffer.from(body).toString("hex")
        )
        assert.strictEqual(
          await ask(["open", word(secret), word(`${channel}.other`), ...place.slice(1), word(ours), ...bound]),
          "error AEADBadTagException"
        )

        const code = algorithm === "aes256Gcm" ? "1" : "2"
        const theirs = await ask(["seal", code, word(keyId), word(secret), ...place, word(body), ...bound])
        const opened = await within(() => told(encryption.open(Buffer.from(theirs, "hex"), context)), layer)
        assert.deepStrictEqual(opened, Buffer.from(body))
      }),
      { numRuns: 60 }
    ))
})
