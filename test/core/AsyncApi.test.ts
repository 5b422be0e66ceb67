import {
  AsyncApi,
  Auth,
  Channel,
  Decode,
  Lanes,
  type Message,
  Publish,
  Publisher,
  Request,
  Retry,
  Stack,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import specs from "@asyncapi/specs"
import { Ajv } from "ajv"
import { Effect, pipe, Schema } from "effect"
import * as fc from "fast-check"

const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })

interface Tree {
  readonly name: string
  readonly children: ReadonlyArray<Tree>
}
const Tree: Schema.Codec<Tree> = Schema.Struct({
  name: Schema.String,
  children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
}).annotate({ identifier: "Tree" })

const Orders = Channel.make("orders", { payload: Order })
const Trees = Channel.make("trees/of life", { payload: Tree })

const document = AsyncApi.document({
  title: "Billing",
  version: "1.2.3",
  subscriptions: [
    Subscription.make(
      Orders,
      { group: "billing", name: "placeOrder", lanes: Lanes.key(8) },
      pipe(() => Effect.void, Decode.middleware(Orders), Auth.middleware())
    ),
    Subscription.make(Trees, { group: "forest", name: "grow" }, pipe(() => Effect.void, Decode.middleware(Trees))),
    Subscription.make(Channel.bytes("raw"), { group: "forest", name: "grow" }, () => Effect.void)
  ]
})

const ajv = new Ajv({ strict: false, validateFormats: false })
const validate = ajv.compile({ ...specs.schemasWithoutId["3.0.0"] } as object)

describe("AsyncApi", () => {
  it("X7 the document is valid AsyncAPI 3", () => {
    assert.isTrue(validate(document), JSON.stringify(validate.errors?.slice(0, 3)))
    assert.isFalse(validate({ ...document, operations: { x: { action: "receive" } } }))
  })

  it("F20 addresses with parameters and answers of requests are valid AsyncAPI 3", () => {
    const Regional = Channel.make("prices.{region}.{+rest}", { payload: Order })
    const Prices = Channel.make("prices", { payload: Order })
    const Price = Request.make(Prices, { reply: Tree })
    const answering = pipe(
      (_: Message<typeof Order.Type>) => Effect.succeed({ name: "root", children: [] }),
      Decode.middleware(Prices),
      Request.answer(Price)
    )
    const routing = AsyncApi.document({
      title: "Routing",
      version: "1.0.0",
      subscriptions: [
        Subscription.make(
          Regional,
          { group: "g", name: "all", deadLetters: "failed" },
          pipe(() => Effect.void, Decode.middleware(Regional))
        ),
        Subscription.make(Prices, { group: "g", name: "price" }, answering)
      ]
    })
    assert.isTrue(validate(routing), JSON.stringify(validate.errors?.slice(0, 3)))
    assert.containSubset(routing.channels["prices._region_.__rest_"], {
      parameters: { region: { description: "One segment." }, rest: { description: "All that is left of the name." } }
    })
    assert.containSubset(routing.operations["price"], {
      reply: {
        address: { location: "$message.header#/reply-to" },
        channel: { $ref: "#/channels/prices.answers" }
      }
    })
    assert.include(JSON.stringify(routing.channels["prices.answers"]), "prices.answers.Tree")
  })

  it("X7 channels carry their schema, operations their pipeline, and equal names stay apart", () => {
    assert.deepStrictEqual(Object.keys(document.channels), ["orders", "trees_of_life", "raw"])
    assert.deepStrictEqual(Object.keys(document.operations), ["placeOrder", "grow.trees_of_life", "grow.raw"])
    assert.include(JSON.stringify(document.channels["orders"]), "\"amount\"")
    assert.include(JSON.stringify(document.operations["placeOrder"]), "Auth")
  })

  it("X7 references of recursive schemas resolve inside the document", () => {
    const text = JSON.stringify(document)
    const references = [...text.matchAll(/"\$ref":"#\/([^"]+)"/g)].map((match) => match[1]!.split("/"))
    assert.isAbove(references.length, 3)
    for (const path of references) {
      const found = path.reduce<unknown>((at, name) => (at as Record<string, unknown> | undefined)?.[name], document)
      assert.isDefined(found, path.join("/"))
    }
  })

  const noop = () => Effect.void

  it("X7 no channel, operation or schema is lost or merged, whatever the names, and ids do not depend on the order", () =>
    fc.assert(
      fc.property(
        fc.uniqueArray(
          fc.record({
            channel: fc.constantFrom("a/b", "a:b", "a_b", "a_2fb", "a b", "a.b", "é", "send.a.b"),
            name: fc.constantFrom("handle", "handle.a_b", "h/1", "h:1", "send.a.b"),
            group: fc.constantFrom("g", "g/1", "g:1")
          }),
          { selector: (each) => JSON.stringify(each), maxLength: 12 }
        ),
        (all) => {
          const of = (list: typeof all) =>
            AsyncApi.document({
              title: "t",
              version: "1",
              publishers: [Publisher.make(Channel.bytes("a.b"))],
              subscriptions: list.map(({ channel, ...options }) =>
                Subscription.make(Channel.make(channel, { payload: Schema.Literal(channel) }), options, noop)
              )
            })
          const found = of(all)
          assert.isTrue(validate(found), JSON.stringify(validate.errors?.slice(0, 3)))
          const addresses = Object.values(found.channels).map((each) => (each as { address: string }).address)
          assert.sameMembers(addresses, [...new Set([...all.map(({ channel }) => channel), "a.b"])])
          const operations = Object.values(found.operations) as ReadonlyArray<Record<string, unknown>>
          assert.strictEqual(operations.length, all.length + 1)
          const again = of([...all].reverse())
          assert.sameMembers(Object.keys(again.channels), Object.keys(found.channels))
          const receiving = (document: AsyncApi.Document) =>
            Object.entries(document.operations)
              .map(([id, each]) => {
                const { channel, summary, title } = each as Record<string, unknown>
                return JSON.stringify([id, channel, summary, title])
              }).sort()
          assert.deepStrictEqual(receiving(again), receiving(found))
        }
      ),
      { numRuns: 50 }
    ))

  it("X7 what is published has a send operation, with the schema and the answers of a request", () => {
    const Placed = Channel.make("orders.placed", { payload: Order })
    const Regional = Channel.make("orders.{region}", { payload: Order })
    const Large = Channel.make("orders.large", { payload: Tree })
    const Small = Channel.make("orders.small", { payload: Tree })
    const Prices = Channel.make("prices", { payload: Order })
    const Price = Request.make(Prices, { reply: Tree })
    const echo = (message: Message<typeof Order.Type>) => Effect.succeed(message.payload)
    const tree = (_: Message<typeof Order.Type>) => Effect.succeed({ name: "root", children: [] })
    const sending = AsyncApi.document({
      title: "Sending",
      version: "1.0.0",
      subscriptions: [
        Subscription.make(
          Orders,
          { group: "g", name: "a" },
          pipe(echo, Publish.middleware(Placed), Decode.middleware(Orders))
        ),
        Subscription.make(
          Orders,
          { group: "g", name: "b" },
          Stack.start().use(Decode.middleware(Orders)).use(Publish.route({ Large, Small }, () => "Large")).handle(tree)
        ),
        Subscription.make(Placed, { group: "g", name: "c" }, noop)
      ],
      publishers: [Publisher.make(Regional, Retry.middleware()), Publisher.make(Placed)],
      requests: [Price]
    })
    assert.isTrue(validate(sending), JSON.stringify(validate.errors?.slice(0, 3)))
    const actions = Object.entries(sending.operations).map(([id, each]) => [id, (each as { action: string }).action])
    assert.deepStrictEqual(actions, [
      ["a", "receive"],
      ["b", "receive"],
      ["c", "receive"],
      ["send.orders.placed", "send"],
      ["send.orders.large", "send"],
      ["send.orders.small", "send"],
      ["send.orders._region_", "send"],
      ["request.prices", "send"]
    ])
    assert.containSubset(sending.operations["request.prices"], {
      channel: { $ref: "#/channels/prices" },
      reply: { channel: { $ref: "#/channels/prices.answers" } }
    })
    assert.containSubset(sending.channels["orders._region_"], { parameters: { region: {} } })
    // one message: it is read as it is written
    assert.deepStrictEqual(
      Object.keys((sending.channels["orders.placed"] as { readonly messages: object }).messages),
      ["message"]
    )
  })

  it("X7 readers of one channel by two schemas keep both", () => {
    const both = AsyncApi.document({
      title: "t",
      version: "1",
      subscriptions: [
        Subscription.make(Orders, { group: "a", name: "handle" }, noop),
        Subscription.make(Channel.make("orders", { payload: Tree }), { group: "b", name: "handle" }, noop),
        Subscription.make(Channel.bytes("orders"), { group: "c", name: "handle" }, noop),
        Subscription.make(Orders, { group: "d", name: "handle" }, noop)
      ]
    })
    assert.isTrue(validate(both), JSON.stringify(validate.errors?.slice(0, 3)))
    const refs = Object.values(both.operations).map((each) => JSON.stringify((each as { messages: unknown }).messages))
    assert.strictEqual(new Set(refs).size, 3)
    assert.strictEqual(refs[0], refs[3])
  })
})
