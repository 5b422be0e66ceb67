import { Auth, Description, type Envelope, Idempotency, Log, Trace } from "@millrace/core"
import { ApiKey, Hmac, Jwt } from "@millrace/security"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Layer, Logger, pipe, Redacted, References, Tracer } from "effect"
import * as fc from "fast-check"
import { inspect } from "node:util"
import { deliver, runChain } from "../core/support.ts"
import { claims, epoch, options, secret, sign, standing } from "./support.ts"

const prefix = "acme_test"
const pepper = Redacted.make("a pepper of more than thirty-two bytes, kept apart")
const [ada, revoked, old, stranger] = await Effect.runPromise(
  Effect.all(Array.from({ length: 4 }, () => ApiKey.generate({ prefix, pepper })))
)
const forged = Effect.runSync(ApiKey.generate({ prefix, pepper, id: ada!.id }))
const webhook = Effect.runSync(Hmac.generate)

const store = ApiKey.layerMemory(
  new Map([
    [ada!.id, { hashes: [{ hash: ada!.hash }], subject: "ada" }],
    [revoked!.id, { hashes: [{ hash: revoked!.hash }], subject: "eve", revoked: true }],
    [old!.id, { hashes: [{ hash: old!.hash }], subject: "old", expiresAt: 1 }]
  ])
)

const tokens = await Promise.all([
  sign(secret),
  sign(secret, { ...claims, sub: undefined }),
  sign(secret, { ...claims, exp: 1, note: "a note that nobody else may read" }),
  sign("another secret of more than thirty-two bytes"),
  sign(secret, claims, { kid: "a name of a key that is a secret, too" })
])
const keys = [ada!, revoked!, old!, stranger!, forged].map(({ key }) => Redacted.value(key))

const said = (_message: Envelope) => Effect.asVoid(Auth.Principal)

/** What stands around each: whatever shows anything of a message. */
const watched = <M extends Envelope, E, R>(next: (message: M) => Effect.Effect<void, E, R>) =>
  pipe(next, Log.middleware(), Trace.middleware())

const ways = {
  jwt: { handler: watched(Auth.middleware()(said)), layer: Jwt.layer(options) },
  key: {
    handler: watched(Auth.middleware({ header: "x-api-key", scheme: "" })(said)),
    layer: ApiKey.layer({ prefix, pepper }).pipe(Layer.provide(store))
  }
}
const signatures = {
  handler: watched(Hmac.verify({ keys: [{ name: "partner", secret: webhook }] })(said)),
  layer: Idempotency.layerMemory()
}

/** Runs a message, and gives everything that anybody could read of it. */
const shownOf = async <R>(
  { handler, layer }: {
    readonly handler: (message: ReturnType<typeof deliver>) => Effect.Effect<void, unknown, R>
    readonly layer: Layer.Layer<R>
  },
  headers: Record<string, string>
): Promise<string> => {
  const shown: Array<unknown> = [Description.toText(handler), Description.toMermaid(handler)]
  const tracer = Tracer.make({
    span: (span) => {
      const made = new Tracer.NativeSpan(span)
      shown.push(made)
      return made
    }
  })
  const logger = Logger.make(({ cause, fiber, message }) => {
    shown.push([message, cause, { ...fiber.getRef(References.CurrentLogAnnotations) }])
  })
  const run = runChain(handler, deliver({ headers })).pipe(
    Effect.provide(layer),
    Effect.provideService(Clock.Clock, standing(epoch * 1000)),
    Effect.provideService(Tracer.Tracer, tracer),
    Effect.provide(Logger.layer([logger]))
  )
  const exit = await Effect.runPromise(run)
  shown.push(exit, JSON.stringify(exit), String(exit))
  return shown.map((each) =>
    typeof each === "string" ? each : inspect(each, { depth: 12, showHidden: true, maxStringLength: null })
  ).join("\n")
}

/** Whether any twelve letters in a row of the credential stand in it. */
const leak = (shown: string, credential: string): string | undefined => {
  for (let at = 0; at + 12 <= credential.length; at++) {
    const window = credential.slice(at, at + 12)
    if (shown.includes(window)) return window
  }
  return undefined
}

const changes = fc.array(
  fc.tuple(fc.nat(), fc.constantFrom(..."aZ0_-. =\""), fc.constantFrom("replace", "insert", "remove", "keep")),
  { maxLength: 3 }
)

const change = (credential: string, list: ReadonlyArray<readonly [number, string, string]>): string =>
  list.reduce((text, [where, letter, how]) => {
    if (how === "keep") return text
    const at = where % (text.length + 1)
    return text.slice(0, at) + (how === "remove" ? "" : letter) + text.slice(how === "insert" ? at : at + 1)
  }, credential)

describe("secrets", () => {
  it(
    "F8 B10 T9 no error, log line, span or description holds a part of a credential, whatever becomes of it",
    async () => {
      await fc.assert(
        fc.asyncProperty(fc.constantFrom(...tokens), changes, async (token, list) => {
          const credential = change(token, list)
          const shown = await shownOf(ways.jwt, { authorization: `Bearer ${credential}` })
          assert.isUndefined(leak(shown, credential))
          // nor what stands in it
          for (const part of ["nobody else may read", "a name of a key"]) assert.notInclude(shown, part)
          assert.notInclude(shown, secret)
        }),
        { numRuns: 150 }
      )
      await fc.assert(
        fc.asyncProperty(fc.constantFrom(...keys), changes, async (key, list) => {
          const credential = change(key, list)
          const shown = await shownOf(ways.key, { "x-api-key": credential })
          assert.isUndefined(leak(shown, credential.replace(prefix, "")))
          assert.notInclude(shown, Redacted.value(pepper))
        }),
        { numRuns: 150 }
      )
      await fc.assert(
        fc.asyncProperty(fc.base64String({ minLength: 44, maxLength: 44 }), changes, async (signature, list) => {
          const field = change(`v1,${signature}`, list)
          const shown = await shownOf(signatures, {
            "webhook-id": "msg_1",
            "webhook-timestamp": `${epoch}`,
            "webhook-signature": field
          })
          assert.isUndefined(leak(shown, field))
          assert.isUndefined(leak(shown, Redacted.value(webhook)))
        }),
        { numRuns: 150 }
      )
    },
    60_000
  )

  it("F8 what is watched shows the rest: the reason, the handler's span and the step's name", async () => {
    const shown = await shownOf(ways.key, { "x-api-key": keys[4]! })
    for (const each of ["refused", "Unauthorized", "x-api-key", "process orders"]) assert.include(shown, each)
    assert.include(await shownOf(signatures, {}), "replay: refuse")
  })
})
