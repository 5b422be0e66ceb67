import { AsyncApi, Auth, Channel, Decode, Lanes, type Message, Request, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import specs from "@asyncapi/specs"
import { Ajv } from "ajv"
import { Effect, pipe, Schema } from "effect"

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
    assert.deepStrictEqual(Object.keys(document.operations), ["placeOrder", "grow", "grow.raw"])
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
})
