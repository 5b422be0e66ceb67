import { AsyncApi, Auth, Channel, Decode, Lanes, Subscription } from "@millrace/core"
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
