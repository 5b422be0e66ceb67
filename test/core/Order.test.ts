import { assert, describe, it } from "@effect/vitest"
import {
  Channel,
  Correlate,
  DeadLetter,
  Decode,
  Description,
  type Envelope,
  Log,
  type Message,
  Metrics,
  Middleware,
  Order,
  Publish,
  RateLimit,
  Request,
  Retry,
  Route,
  Timeout,
  Trace
} from "@millrace/core"
import { Body, type Request as HttpRequest, Server } from "@millrace/http"
import { Data, Effect, pipe, Schema } from "effect"
import * as fc from "fast-check"
import { read, sources } from "../repo/workspace.ts"

const { recommended } = Order
const names = recommended.map(({ name }) => name)
const positionOf = (name: string) => recommended.find((place) => place.name === name)?.position

const Orders = Channel.make("orders", { payload: Schema.Struct({ id: Schema.String }) })
const Invoices = Channel.make("invoices", { payload: Schema.Struct({ order: Schema.String }) })
class Gone extends Data.TaggedError("Gone")<{}> {}
class Busy extends Data.TaggedError("Busy")<{}> {
  readonly failure = "transient" as const
}

const place = ({ payload }: Message<{ readonly id: string }>) => Effect.succeed({ order: payload.id })

const Own = (_message: Envelope) => Effect.void

/** A pipeline of steps by name, outermost first. */
const stack = (steps: ReadonlyArray<string>) =>
  steps.reduceRight(
    (handler, name) => Middleware.make()({ name, stage: "consume" }, (next) => next)(handler),
    Own
  )

interface Pair {
  readonly outer: string
  readonly inner: string
  readonly file: string
}

/** Each order that a middleware of any package asks for, as its source says it. */
const rules = (): ReadonlyArray<Pair> =>
  sources("packages/{core,http,sql,redis,security}/src/**/*.ts").flatMap((file) => {
    const code = read(file).replace(/^ *\*.*$/gm, "")
    const named = [...code.matchAll(/\bname: "(\w+)",\s*stage:/g)]
    return [...code.matchAll(/\b(inside|outside): "(\w+)"/g)].map(([, side, other = ""], i, found) => {
      const at = found[i]!.index
      // the rules of a step are written beside its name
      const own = named.toSorted((a, b) => Math.abs(a.index - at) - Math.abs(b.index - at))[0]?.[1] ?? ""
      return side === "inside" ? { outer: other, inner: own, file } : { outer: own, inner: other, file }
    })
  })

/** Those that are made of a list, where the source does not show them. */
const made = (target: object): ReadonlyArray<Pair> =>
  Description.of(target).flatMap(({ name, order }) =>
    (order ?? []).map((rule) =>
      "inside" in rule
        ? { outer: rule.inside, inner: name, file: name }
        : { outer: name, inner: rule.outside, file: name }
    )
  )

describe("the recommended order", () => {
  it("W9 is data: every place has a name, a position and a reason, outermost first", () => {
    assert.strictEqual(new Set(names).size, names.length)
    assert.deepStrictEqual(
      recommended.map(({ position }) => position),
      recommended.map(({ position }) => position).sort((a, b) => a - b)
    )
    for (const { because } of recommended) assert.match(because, /^[a-z].{20,}[^.]$/)
    // the order of an HTTP server, as far as it is asked for
    const http = recommended.filter(({ where }) => where !== "messages").map(({ name }) => name)
    const asked = ["Problem", "Correlate", "Cors", "RateLimit", "Idempotency"]
    assert.deepStrictEqual(http.filter((name) => asked.includes(name)), asked)
  })

  it("W9 has a place for each middleware of core", () => {
    const modules = [...read("packages/core/src/index.ts").matchAll(/^export \* as (\w+) from "\.\/middleware\//gm)]
    assert.deepStrictEqual(modules.map(([, name = ""]) => name).filter((name) => !names.includes(name)), [])
  })

  it("W9 F16 never contradicts a rule that a middleware asks for", () => {
    const ask = Request.make(Channel.make("sums", { payload: Schema.Finite }), { reply: Schema.Finite })
    const all = [
      ...rules(),
      ...made(Request.answer(ask)),
      ...made(Publish.middleware(Invoices)),
      ...made(DeadLetter.tags("Gone"))
    ]
    assert.isAtLeast(all.length, 24)
    const known = all.filter(({ inner, outer }) => names.includes(outer) && names.includes(inner))
    assert.isAtLeast(known.length, 22)
    const wrong = known.filter(({ inner, outer }) => !(positionOf(outer)! < positionOf(inner)!))
    assert.deepStrictEqual(wrong, [])
  })

  it("W9 nothing is said of the recommended order, nor of steps that have no place there", () => {
    fc.assert(fc.property(fc.subarray(names), fc.array(fc.nat()), (some, places) => {
      const steps = [...some]
      for (const place of places) steps.splice(place % (steps.length + 1), 0, "Mine")
      assert.deepStrictEqual(Order.advise(stack(steps)), [])
      assert.include(Order.explain(stack(steps)), "- every step stands where it is recommended")
    }))
  })

  it("W9 of any order, exactly the pairs are named that stand the other way round", () => {
    fc.assert(fc.property(fc.shuffledSubarray(names), (steps) => {
      const expected = steps.flatMap((inner, i) =>
        steps.slice(i + 1).filter((outer) => positionOf(outer)! < positionOf(inner)!).map((outer) =>
          `${outer}>${inner}`
        )
      )
      const found = Order.advise(stack(steps))
      assert.deepStrictEqual(found.map(({ inner, outer }) => `${outer}>${inner}`).sort(), expected.sort())
      for (const { because, inner, outer, sentence } of found) {
        assert.strictEqual(sentence, `${inner} stands outside ${outer}, and is better inside it: ${because}`)
        assert.include(Order.explain(stack(steps)), sentence)
      }
    }))
  })

  it("W9 what explain puts beside a pipeline is its steps, and nothing is said of them in that order", () => {
    fc.assert(fc.property(fc.shuffledSubarray([...names, "Mine"]), (steps) => {
      const rows = Order.explain(stack(steps)).split("\n").slice(1)
        .filter((line) => !line.startsWith("- ")).map((row) => row.split(/ +/))
      assert.deepStrictEqual(rows.map(([here]) => here), [...steps, "Own"])
      const better = rows.map(([, recommended]) => recommended!)
      assert.deepStrictEqual([...better].sort(), [...steps, "Own"].sort())
      assert.deepStrictEqual(Order.advise(stack(better.slice(0, -1))), [])
      // what has no place stays
      assert.strictEqual(better.indexOf("Mine"), steps.indexOf("Mine"))
    }))
  })

  it("W9 a step that stands in two places is well where one of them is", () => {
    const both = ["Timeout", "Retry", "Timeout"]
    assert.deepStrictEqual(Order.advise(stack(both)), [])
    assert.strictEqual(Order.advise(stack(["Timeout", "Timeout", "Retry"])).length, 1)
  })

  it("W9 the reason of a rule is told where there is one, and the order that breaks it is still refused", () => {
    assert.deepStrictEqual(Order.advise(stack(["Metrics", "Log"])), [])
    const sell = (_: Message<Uint8Array>): Effect.Effect<void, Gone | Busy> => Effect.fail(new Gone())
    assert.deepStrictEqual(
      Order.advise(pipe(sell, Retry.middleware(), DeadLetter.tags("Gone"), Trace.middleware())),
      []
    )
    const inverted = pipe(sell, DeadLetter.tags("Gone"), Retry.middleware(), Trace.middleware())
    const [advice] = Order.advise(inverted)
    assert.strictEqual(advice?.because, "inside, a message would be given up at its first failure and never be retried")
    assert.throws(() => Order.check(inverted), Order.OrderError)
  })

  it("W9 every way is looked at where they part, and a sentence that holds for several is said once", () => {
    const small = pipe(place, RateLimit.middleware({ limit: 5 }), Timeout.middleware({ after: "1 second" }))
    const handler = pipe(
      Route.by((_: Message<{ readonly id: string }>): "small" | "large" => "small", { small, large: place }),
      Decode.middleware(Orders),
      Log.middleware(),
      Metrics.middleware(),
      Trace.middleware()
    )
    assert.deepStrictEqual(
      Order.advise(handler).map(({ sentence }) => sentence),
      [
        "Decode stands outside RateLimit, and is better inside it: what is refused has cost no body, no key and no run",
        "Timeout stands outside RateLimit, and is better inside it: what is refused has cost no body, no key and no run"
      ]
    )
    assert.strictEqual(Order.explain(handler).split("\n\n").length, 2)
  })

  it("W9 a route of HTTP is compared as a handler is", () => {
    const place = (_: HttpRequest<{ readonly id: string }>) => Effect.void
    const handler = pipe(
      place,
      Body.json(Schema.Struct({ id: Schema.String })),
      Log.middleware(),
      RateLimit.middleware({ limit: 5 }),
      Correlate.middleware()
    )
    assert.deepStrictEqual(Order.explain(Server.route("POST", "/orders", handler)).split("\n"), [
      "here       recommended",
      "Correlate  Correlate",
      "RateLimit  Log",
      "Log        RateLimit",
      "Body       Body",
      "place      place",
      "- RateLimit stands outside Log, and is better inside it: whatever is refused or fails further in is still a line, and only one"
    ])
  })

  it("W9 it is printed: all of it, or what one kind of source has", () => {
    const all = Order.toText().split("\n")
    assert.strictEqual(all.length, recommended.length)
    assert.match(all[0] ?? "", /^ 1  Problem +whatever fails/)
    assert.notInclude(Order.toText("http"), "DeadLetter")
    assert.notInclude(Order.toText("messages"), "Cors")
    assert.include(Order.toText("messages"), "Correlate")
  })
})
