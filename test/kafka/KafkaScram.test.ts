import { it } from "@effect/vitest"
import { Effect } from "effect"
import * as fc from "fast-check"
import { createHash, createHmac, pbkdf2Sync } from "node:crypto"
import { describe, expect } from "vitest"
import { scram } from "../../packages/kafka/src/internal/kafkajs/Sasl.ts"

/** Answers from a script, and keeps what it was sent. */
const scripted = (...answers: ReadonlyArray<string>) => {
  const sent: Array<string> = []
  return {
    sent,
    exchange: async (bytes: Buffer) => {
      sent.push(bytes.toString())
      return Buffer.from(answers[sent.length - 1] ?? "")
    }
  }
}

/** The example of RFC 7677, section 3. */
const user = { username: "user", password: "pencil" }
const nonce = "rOprNGfwEbeRWgbNEkqO"
const challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
const verdict = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

describe("SCRAM", () => {
  it.effect("X17 is that of RFC 7677", () =>
    Effect.promise(async () => {
      const { exchange, sent } = scripted(challenge, verdict)
      await scram("sha256", user, exchange, nonce)
      expect(sent).toEqual([
        "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
      ])
    }))

  it.effect.each(
    [
      ["another nonce", ["r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", verdict], "nonce is wrong"],
      ["its own nonce alone", [`r=${nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096`, verdict], "nonce is wrong"],
      ["few iterations", [challenge.replace("4096", "4095"), verdict], "fewer than 4096 iterations"],
      ["no iterations", [challenge.replace(",i=4096", ""), verdict], "fewer than 4096 iterations"],
      ["a false signature", [challenge, verdict.replace("6rri", "7rri")], "does not know the password"],
      ["no signature", [challenge, ""], "does not know the password"],
      ["an error", [challenge, "e=invalid-proof"], "invalid-proof"]
    ] as const
  )("X17 a server is refused that answers with %s", ([, answers, why]) =>
    Effect.promise(async () => {
      await expect(scram("sha256", user, scripted(...answers).exchange, nonce)).rejects.toThrow(why)
    }))

  it.effect("X17 any user and password prove themselves, and a server without the password does not", () =>
    Effect.promise(async () => {
      const text = fc.string({ minLength: 1, maxLength: 20, unit: "binary" })
      await fc.assert(
        fc.asyncProperty(
          text,
          text,
          fc.constantFrom("sha256", "sha512"),
          fc.boolean(),
          async (username, password, digest, knows) => {
            const hmac = (key: Buffer, value: string) => createHmac(digest, key).update(value).digest()
            const salt = Buffer.from("salt")
            const known = knows ? password : `${password}.`
            const salted = pbkdf2Sync(known, salt, 4096, digest === "sha256" ? 32 : 64, digest)
            let first = ""
            let asked = ""
            const server = async (bytes: Buffer): Promise<Buffer> => {
              const message = bytes.toString()
              if (first === "") {
                first = message.slice(3)
                const name = /^n=([^,]*),/.exec(first)?.[1] ?? ""
                expect(name.replaceAll("=2C", ",").replaceAll("=3D", "=")).toBe(username)
                asked = `r=${first.slice(first.lastIndexOf(",r=") + 3)}more,s=${salt.toString("base64")},i=4096`
                return Buffer.from(asked)
              }
              const [, final, proof] = /^(.*),p=(.*)$/.exec(message) ?? []
              const signed = `${first},${asked},${final}`
              const stored = createHash(digest).update(hmac(salted, "Client Key")).digest()
              const signature = hmac(stored, signed)
              const key = Buffer.from(Buffer.from(proof ?? "", "base64").map((byte, i) => byte ^ signature[i]!))
              expect(createHash(digest).update(key).digest().equals(stored)).toBe(knows)
              return Buffer.from(`v=${hmac(hmac(salted, "Server Key"), signed).toString("base64")}`)
            }
            const outcome = scram(digest, { username, password }, server)
            if (knows) await outcome
            else await expect(outcome).rejects.toThrow("does not know the password")
          }
        ),
        { numRuns: 10 }
      )
    }))
})
