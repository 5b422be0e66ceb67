import { it } from "@effect/vitest"
import * as KafkaAwsIam from "@millrace/kafka/KafkaAwsIam"
import { SignatureV4 } from "@smithy/signature-v4"
import { Effect, Exit, Redacted } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { describe, expect } from "vitest"
import { Sha256 } from "../services/awsSha256.ts"

/** The parameters that AWS's implementation signs. */
const theirs = async (
  region: string,
  credentials: { accessKeyId: string; secretAccessKey: string; sessionToken?: string },
  at: number
) => {
  const signer = new SignatureV4({
    service: "kafka-cluster",
    region,
    credentials,
    sha256: Sha256,
    applyChecksum: false
  })
  const hostname = `kafka.${region}.amazonaws.com`
  const { query } = await signer.presign({
    method: "GET",
    protocol: "https:",
    hostname,
    path: "/",
    headers: { host: hostname },
    query: { Action: "kafka-cluster:Connect" }
  }, { expiresIn: 900, signingDate: new Date(at) })
  return { ...query, "User-Agent": "millrace" }
}

const text = fc.string({ unit: fc.constantFrom(..."abcXYZ019+/=-_.~ %é"), minLength: 1, maxLength: 40 })

describe("F22 tokens of AWS IAM", () => {
  it.effect("are signed as AWS's own implementation signs them, in base64url without padding, and end after 900 s", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.constantFrom("eu-central-1", "us-east-1", "ap-southeast-3"),
          text,
          text,
          fc.option(text, { nil: undefined }),
          fc.integer({ min: 0, max: 4_000_000_000 }),
          async (region, accessKeyId, secretAccessKey, sessionToken, seconds) => {
            const at = seconds * 1000
            const credentials = {
              accessKeyId,
              secretAccessKey,
              ...(sessionToken === undefined ? {} : { sessionToken })
            }
            const { expiresAt, token } = await Effect.runPromise(
              Effect.provide(
                Effect.andThen(TestClock.setTime(at), KafkaAwsIam.token({ region, credentials })),
                TestClock.layer()
              )
            )
            expect(expiresAt).toBe(at + 900_000)
            const encoded = Redacted.isRedacted(token) ? Redacted.value(token) : token
            expect(encoded).toMatch(/^[A-Za-z0-9_-]+$/)
            const url = new URL(Buffer.from(encoded, "base64url").toString())
            expect(url.origin).toBe(`https://kafka.${region}.amazonaws.com`)
            expect(Object.fromEntries(url.searchParams)).toEqual(await theirs(region, credentials, at))
          }
        ),
        { numRuns: 50 }
      )
    ))

  it.effect("ask for credentials at each token, and tell where these are empty", () =>
    Effect.gen(function*() {
      let asked = 0
      const credentials = Effect.sync(() => ({
        accessKeyId: `key${++asked}`,
        secretAccessKey: asked === 2 ? "" : "secret"
      }))
      const token = KafkaAwsIam.token({ region: "eu-central-1", credentials })
      yield* token
      const second = yield* Effect.exit(token)
      expect(Exit.isFailure(second)).toBe(true)
      expect(String(second)).toContain("one of them is empty")
      expect(asked).toBe(2)
      expect(() => KafkaAwsIam.token({ region: "", credentials })).toThrow(/KafkaAwsIam: region must be a name/)
      expect(() =>
        KafkaAwsIam.token({ region: "eu-central-1", credentials: { accessKeyId: "", secretAccessKey: "s" } })
      )
        .toThrow(/one of them is empty/)
    }))
})
