import { assert, describe, it } from "@effect/vitest"
import {
  Audit,
  Auth,
  Channel,
  DeadLetter,
  Decode,
  Description,
  type Message,
  Middleware,
  Publish,
  Publisher,
  RateLimit,
  Retry,
  Stack,
  Subscription,
  Timeout
} from "@millrace/core"
import { Data, Effect, pipe, Schema } from "effect"
import * as fc from "fast-check"

const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
const Orders = Channel.make("orders", { payload: Order })
const Invoices = Channel.make("invoices", { payload: Schema.Struct({ order: Schema.String }) })

class OutOfStock extends Data.TaggedError("OutOfStock")<{}> {
  readonly failure = "conflict" as const
}

const placeOrder = (message: Message<typeof Order.Type>): Effect.Effect<{ readonly order: string }, OutOfStock> =>
  message.payload.amount > 3 ? Effect.fail(new OutOfStock()) : Effect.succeed({ order: message.payload.id })

const handler = pipe(
  placeOrder,
  Publish.middleware(Invoices, { through: Retry.middleware({ times: 2 }) }),
  Timeout.middleware({ after: "5 seconds" }),
  Retry.middleware({ while: { tags: ["OutOfStock"], classes: ["timeout"] } }),
  Decode.middleware(Orders),
  DeadLetter.tags("OutOfStock", "DecodeError"),
  RateLimit.middleware({ limit: 50 }),
  Auth.middleware(),
  Audit.middleware()
)

const stack = Stack.start()
  .use(Audit.middleware())
  .use(Auth.middleware())
  .use(RateLimit.middleware({ limit: 50 }))

/** A step of any name and options. */
const step = (name: string, shows: Record<string, unknown>) =>
  Middleware.make()({ name, stage: "consume", shows }, (next) => next)

const anyStep = fc.tuple(fc.string(), fc.dictionary(fc.string({ minLength: 1 }), fc.anything(), { maxKeys: 3 }))

const printable = (value: unknown): boolean => {
  try {
    return typeof String(value) === "string"
  } catch {
    return false
  }
}

describe("Description", () => {
  it("X7 a pipeline prints itself, outermost first, with stages and options", () => {
    assert.strictEqual(
      Description.toText(handler).replaceAll(/^(\s*(?:Audit|Auth|RateLimit))(?: \([^)]*\))?/gm, "$1"),
      [
        "Audit  [consume]",
        "  Auth  [consume]",
        "    RateLimit  [consume]",
        "      DeadLetter (tags: OutOfStock, DecodeError)  [consume]",
        "        Decode (channel: orders, content: schema)  [decode]",
        "          Retry (times: 3, tags: OutOfStock, classes: timeout)  [consume]",
        "            Timeout (after: 5s)  [consume]",
        "              Publish (channel: invoices, through: Retry)  [publish]",
        "                placeOrder  [handle]"
      ].join("\n")
    )
  })

  it("X7 a pipeline draws itself as a Mermaid flow chart", () => {
    assert.strictEqual(
      Description.toMermaid(pipe(placeOrder, Retry.middleware({ times: 2 }), Decode.middleware(Orders))),
      [
        "flowchart TB",
        "  n0[\"Decode<br/>channel: orders, content: schema\"]:::decode",
        "  n1[\"Retry<br/>times: 2\"]:::consume",
        "  n2[\"placeOrder\"]:::handle",
        "  n0 --> n1",
        "  n1 --> n2"
      ].join("\n")
    )
  })

  it("X7 a stack, a pipe, a subscription and a publisher describe themselves alike", () => {
    const piped = pipe(
      (_: Message<Uint8Array>) => Effect.void,
      RateLimit.middleware({ limit: 50 }),
      Auth.middleware(),
      Audit.middleware()
    )
    const stacked = stack.handle((_) => Effect.void)
    assert.deepStrictEqual(
      Description.of(stacked).slice(0, -1).map(({ name }) => name),
      Description.of(piped).slice(0, -1).map(({ name }) => name)
    )
    const subscription = Subscription.make(Orders, { group: "g", settle: {} }, handler)
    assert.strictEqual(Description.toText(subscription), Description.toText(handler))
    assert.strictEqual(
      Description.toText(Publisher.make(Orders, Retry.middleware({ times: 2 }))),
      "Retry (times: 2)  [consume]\n  Broker (channel: orders)  [publish]"
    )
  })

  it("X7 any stack, with names and options of any kind, is one line for each step", () =>
    fc.assert(
      fc.property(fc.array(anyStep, { maxLength: 8 }), (list) => {
        fc.pre(list.every(([, shows]) => Object.values(shows).every(printable)))
        const built = list.reduceRight<Parameters<ReturnType<typeof step>>[0]>(
          (next, [name, shows]) => step(name, shows)(next),
          function handle() {
            return Effect.void
          }
        )
        const count = list.length + 1
        assert.lengthOf(Description.toText(built).split("\n"), count)
        const [head, ...lines] = Description.toMermaid(built).split("\n")
        assert.strictEqual(head, "flowchart TB")
        const nodes = lines.slice(0, count)
        for (const [i, node] of nodes.entries()) {
          assert.match(node, new RegExp(`^  n${i}\\["[^"]*"\\]:::(?:consume|handle)$`))
          assert.notMatch(node.replace("<br/>", ""), /[<>]/)
        }
        assert.deepStrictEqual(
          lines.slice(count),
          nodes.slice(1).map((_, i) => `  n${i} --> n${i + 1}`)
        )
      })
    ))
})
