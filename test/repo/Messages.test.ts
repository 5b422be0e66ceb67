import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { join, relative } from "node:path"
import { assert, beforeAll, describe, it } from "vitest"
import { root, run } from "./workspace.ts"

// Below test/, because that is where every workspace package resolves.
const folder = join(root, "test", ".cache", "messages")

const head = `import {
  Audit, Auth, Broker, Channel, DeadLetter, Decode, Filter, type Message, Metrics, Outcome, type Outgoing, Publish, Publisher, RateLimit, Retry, Route, Router, Stack, Subscription
} from "@millrace/core"
import { Effect, pipe, Schema } from "effect"
const Order = Schema.Struct({ id: Schema.String })
type Order = typeof Order.Type
const Orders = Channel.make("orders", { payload: Order })
`

interface Mistake {
  readonly title: string
  /** One statement. */
  readonly code: string
  /** What the compiler prints of it, without file and place. */
  readonly says: ReadonlyArray<string>
}

const mistakes: ReadonlyArray<Mistake> = [
  {
    title: "layers that nobody provides are named by the modules that they belong to",
    code: `Effect.runPromise(Effect.scoped(Subscription.run(Subscription.make(
      Orders,
      { group: "g" },
      Stack.start().use(Metrics.middleware()).use(Auth.middleware()).use(Auth.scopes("a")).use(Audit.middleware())
        .use(RateLimit.middleware()).handle((message) => Effect.succeed(message.key))
    ))))`,
    says: [
      "error TS2379: Argument of type 'Effect<Running, BrokerError, AuditStore | AuthVerifier | Broker | MetricsRegistry | RateLimitStore>' is not assignable to parameter of type 'Effect<Running, BrokerError, never>' with 'exactOptionalPropertyTypes: true'. Consider adding 'undefined' to the types of the target's properties.",
      "  Type 'AuditStore | AuthVerifier | Broker | MetricsRegistry | RateLimitStore' is not assignable to type 'never'.",
      "    Type 'AuditStore' is not assignable to type 'never'."
    ]
  },
  {
    title: "a handler that asks who sent a message, and no Auth outside it",
    code: `Effect.runPromise(Stack.start().handle(() => Effect.asVoid(Auth.Principal))({} as Message<Uint8Array>))`,
    says: [
      "error TS2379: Argument of type 'Effect<void, never, AuthPrincipal>' is not assignable to parameter of type 'Effect<void, never, never>' with 'exactOptionalPropertyTypes: true'. Consider adding 'undefined' to the types of the target's properties.",
      "  Type 'AuthPrincipal' is not assignable to type 'never'."
    ]
  },
  {
    title: "a middleware that reads the payload outside Decode",
    code:
      `Stack.start().use(Filter.middleware((message: Message<Order>) => message.payload.id !== "")).use(Decode.middleware(Orders))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Property '[refused]' is missing in type 'Fixed<Message<{ readonly id: string; }>, FullConfig<{ requires: never; answers: Ack; }>>' but required in type 'Refuse<\"This middleware reads a decoded payload, and here the message is still bytes: put it inside Decode.\">'."
    ]
  },
  {
    title: "a middleware of consumed messages in a stack that publishes",
    code: `Stack.start<Outgoing<Order>>().use(DeadLetter.tags("EncodeError"))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type 'Takes<{ readonly _tag: \"EncodeError\"; }>' is not assignable to parameter of type 'Refuse<\"This middleware reads messages that are consumed, and these are published: it belongs into a subscription.\">'.",
      "      Property '[refused]' is missing in type 'Around<Message<unknown>, FullConfig<{ handles: { readonly _tag: \"EncodeError\"; }; answers: Answer; }>>' but required in type 'Refuse<\"This middleware reads messages that are consumed, and these are published: it belongs into a subscription.\">'."
    ]
  },
  {
    title: "a middleware that reads the errors in a stack",
    code: `Stack.start().use(Retry.when(() => true))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type '<M extends Envelope, A, R2>(next: Handler<M, A, unknown, R2>) => Handler<M, A, unknown, R2>' is not assignable to parameter of type 'Refuse<\"A stack takes middlewares. One that reads the errors of the handler goes into pipe, where they are known.\">'."
    ]
  },
  {
    title: "a payload that is decoded twice",
    code: `Stack.start().use(Decode.middleware(Orders)).use(Decode.middleware(Orders))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Property '[refused]' is missing in type 'Change<Message<Raw<{ readonly id: string; }>>, Message<{ readonly id: string; }>, FullConfig<{ requires: never; fails: DecodeError; answers: never; }>>' but required in type 'Refuse<\"This middleware reads the bytes of a message, and here they are decoded: put it outside Decode.\">'."
    ]
  },
  {
    title: "a handler that reads the payload, and no Decode outside it",
    code: `Stack.start().handle((message: Message<Order>) => Effect.succeed(message.payload.id))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type '(message: Message<Order>) => Effect.Effect<string, never, never>' is not assignable to parameter of type 'Refuse<\"This handler reads a decoded payload, and here the message is still bytes: put it inside Decode.\">'."
    ]
  },
  {
    title: "a handler of bytes inside Decode",
    code:
      `Stack.start().use(Decode.middleware(Orders)).handle((message: Message<Uint8Array>) => Effect.succeed(message.payload.length))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type '(message: Message<Uint8Array>) => Effect.Effect<number, never, never>' is not assignable to parameter of type 'Refuse<\"This handler reads the bytes of a message, and here they are decoded: put it outside Decode.\">'."
    ]
  },
  {
    title: "a handler that is no Effect",
    code: `Stack.start().handle((message) => message.channel)`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type '(message: Message<Uint8Array<ArrayBufferLike>>) => string' is not assignable to parameter of type 'Refuse<\"A handler is a function from a message to an Effect.\">'."
    ]
  },
  {
    title: "Retry around a handler that cannot fail",
    code: `Stack.start().use(Retry.middleware()).handle((message) => Effect.succeed(message.channel))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type '(message: Message<Uint8Array<ArrayBufferLike>>) => Effect<string, never, never>' is not assignable to parameter of type 'Refuse<\"Retry: this handler cannot fail, so there is nothing to retry. Put Retry outside what fails and inside DeadLetter.\">'."
    ]
  },
  {
    title: "a handler that reads the payload in a pipe, and the middleware stands outside Decode",
    code: `pipe(
  (message: Message<Order>) => Effect.succeed(message.payload.id),
  Decode.middleware(Orders),
  Filter.middleware((message: Message<Order>) => message.payload.id !== "")
)`,
    says: [
      "error TS2345: Argument of type 'Fixed<Message<{ readonly id: string; }>, FullConfig<{ requires: never; answers: Ack; }>>' is not assignable to parameter of type '(b: Handler<Message<Raw<{ readonly id: string; }>>, string, DecodeError, never>) => Handler<Message<{ readonly id: string; }>, string | Ack, DecodeError, never>'.",
      "  Types of parameters 'next' and 'b' are incompatible.",
      "    Type 'Handler<Message<Raw<{ readonly id: string; }>>, string, DecodeError, never>' is not assignable to type 'Handler<Message<{ readonly id: string; }>, string, DecodeError, never>'.",
      "      Type 'Message<{ readonly id: string; }>' is not assignable to type 'Message<Raw<{ readonly id: string; }>>'.",
      "        Type '{ readonly id: string; }' is missing the following properties from type 'Raw<{ readonly id: string; }>': BYTES_PER_ELEMENT, buffer, byteLength, byteOffset, and 32 more."
    ]
  },
  {
    title: "a subscription of a handler that reads the payload, and no Decode",
    code: `Subscription.make(Orders, { group: "g" }, (message: Message<Order>) => Effect.succeed(message.payload.id))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type '(message: Message<Order>) => Effect.Effect<string, never, never>' is not assignable to parameter of type 'Refuse<\"This handler reads a decoded payload, and here the message is still bytes: put it inside Decode.\">'."
    ]
  },
  {
    title: "a subscription of one channel to a handler of another",
    code: `Subscription.make(Channel.make("others", { payload: Schema.Int }), { group: "g" }, pipe(
  (message: Message<Order>) => Effect.succeed(message.payload.id),
  Decode.middleware(Orders)
))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type 'Handler<Message<Raw<{ readonly id: string; }>>, string, DecodeError, never>' is not assignable to parameter of type 'Refuse<\"This handler reads the bytes of another channel than the one whose messages come here.\">'."
    ]
  },
  {
    title: "an error without a tag, in a subscription",
    code: `Subscription.make(Orders, { group: "g" }, (_: Message<Uint8Array>) => Effect.fail("sold out"))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type '{ group: string; }' is not assignable to parameter of type 'Options & { readonly settle?: {} | undefined; } & { readonly \"an error without _tag and without `failure` cannot be settled\": string; }'.",
      "      Property '\"an error without _tag and without `failure` cannot be settled\"' is missing in type '{ group: string; }' but required in type '{ readonly \"an error without _tag and without `failure` cannot be settled\": string; }'."
    ]
  },
  {
    title: "an error without a class and without an entry",
    code:
      `Subscription.make(Orders, { group: "g" }, (_: Message<Uint8Array>) => Effect.fail({ _tag: "SoldOut" } as const))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type '{ group: string; }' is not assignable to parameter of type 'Options & NeedsEntries<\"SoldOut\", { readonly _tag: \"SoldOut\"; }>'.",
      "      Property 'settle' is missing in type '{ group: string; }' but required in type 'NeedsEntries<\"SoldOut\", { readonly _tag: \"SoldOut\"; }>'."
    ]
  },
  {
    title: "several errors without an entry are named, however long their types are",
    code:
      `class SoldOut extends Schema.TaggedError<SoldOut>()("SoldOut", { order: Order, why: Schema.Literals(["stock", "recall"]) }) {}
class CardDeclined extends Schema.TaggedError<CardDeclined>()("CardDeclined", { order: Order, why: Schema.Literals(["limit", "theft"]) }) {}
class AddressUnknown extends Schema.TaggedError<AddressUnknown>()("AddressUnknown", { order: Order }) {}
declare const place: (_: Message<Uint8Array>) => Effect.Effect<void, SoldOut | CardDeclined | AddressUnknown>
Subscription.make(Orders, { group: "g" }, Stack.start().use(Auth.middleware()).handle(place))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type '{ group: string; }' is not assignable to parameter of type 'Options & NeedsEntries<\"AddressUnknown\" | \"CardDeclined\" | \"SoldOut\", AddressUnknown | CardDeclined | SoldOut | Refusal>'.",
      "      Property 'settle' is missing in type '{ group: string; }' but required in type 'NeedsEntries<\"AddressUnknown\" | \"CardDeclined\" | \"SoldOut\", AddressUnknown | CardDeclined | SoldOut | Refusal>'."
    ]
  },
  {
    title: "one of several errors without an entry is named",
    code:
      `class SoldOut extends Schema.TaggedError<SoldOut>()("SoldOut", { order: Order, why: Schema.Literals(["stock", "recall"]) }) {}
class CardDeclined extends Schema.TaggedError<CardDeclined>()("CardDeclined", { order: Order, why: Schema.Literals(["limit", "theft"]) }) {}
class AddressUnknown extends Schema.TaggedError<AddressUnknown>()("AddressUnknown", { order: Order }) {}
declare const place: (_: Message<Uint8Array>) => Effect.Effect<void, SoldOut | CardDeclined | AddressUnknown>
Subscription.make(
  Orders,
  { group: "g", settle: { SoldOut: Outcome.Ack, AddressUnknown: Outcome.Ack } },
  Stack.start().use(Auth.middleware()).handle(place)
)`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Property 'CardDeclined' is missing in type '{ SoldOut: Outcome.Ack; AddressUnknown: Outcome.Ack; }' but required in type '{ readonly AddressUnknown: Entry<AddressUnknown>; readonly AuthUnavailable?: Entry<AuthUnavailable>; readonly CardDeclined: Entry<CardDeclined>; readonly SoldOut: Entry<...>; readonly Unauthorized?: Entry<...>; }'."
    ]
  },
  {
    title: "a handler of a stack shows its answer, errors and needs",
    code: `export const handler: "what an editor shows" = Stack.start().use(Metrics.middleware()).use(Auth.middleware())
  .use(Decode.middleware(Orders)).handle((message) => Effect.succeed(message.payload.id))`,
    says: [
      "error TS2322: Type 'Handler<Message<Uint8Array<ArrayBufferLike>>, string, DecodeError | Refusal, AuthVerifier | MetricsRegistry>' is not assignable to type '\"what an editor shows\"'."
    ]
  },
  {
    title: "a handler of a pipe shows its answer, errors and needs",
    code: `export const handler: "what an editor shows" = pipe(
  (message: Message<Order>) => Effect.succeed(message.payload.id),
  Decode.middleware(Orders),
  Auth.middleware(),
  Filter.middleware((message: Message<Uint8Array>) => message.payload.length > 0)
)`,
    says: [
      "error TS2322: Type 'Handler<Message<Uint8Array<ArrayBufferLike>>, string | Ack, DecodeError | Refusal, AuthVerifier>' is not assignable to type '\"what an editor shows\"'."
    ]
  },
  {
    title: "a router whose stack publishes answers, around one whose handler answers something else",
    code: `const inner = Router.make({ group: "g" }).add(Orders, {}, () => Effect.succeed({ total: 3 }))
Router.make({ through: Stack.start().use(Publish.middleware(Orders)) }).include(inner)`,
    says: [
      "error TS2379: Argument of type 'Building<never, Broker, Delivery<Uint8Array<ArrayBufferLike>>, [], \"g\", { readonly A: { total: number; }; readonly E: never; }>' is not assignable to parameter of type 'Router<never, Broker, { readonly A: { total: number; }; readonly E: never; }> & { readonly \"this answer cannot be published\": { total: number; }; }' with 'exactOptionalPropertyTypes: true'. Consider adding 'undefined' to the types of the target's properties.",
      "  Property '\"this answer cannot be published\"' is missing in type 'Building<never, Broker, Delivery<Uint8Array<ArrayBufferLike>>, [], \"g\", { readonly A: { total: number; }; readonly E: never; }>' but required in type '{ readonly \"this answer cannot be published\": { total: number; }; }'."
    ]
  },
  {
    title: "a consumer's middleware on a publisher",
    code: `Publisher.make(Orders, DeadLetter.tags("EncodeError"))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Argument of type 'Takes<{ readonly _tag: \"EncodeError\"; }>' is not assignable to parameter of type 'Refuse<\"This middleware reads messages that are consumed, and these are published: it belongs into a subscription.\">'.",
      "      Property '[refused]' is missing in type 'Around<Message<unknown>, FullConfig<{ handles: { readonly _tag: \"EncodeError\"; }; answers: Answer; }>>' but required in type 'Refuse<\"This middleware reads messages that are consumed, and these are published: it belongs into a subscription.\">'."
    ]
  },
  {
    title: "a consumer's middleware through which an answer is to be published",
    code: `Publish.middleware(Orders, { through: DeadLetter.tags("EncodeError") })`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Type 'Takes<{ readonly _tag: \"EncodeError\"; }>' is not assignable to type 'Refuse<\"This middleware reads messages that are consumed, and these are published: it belongs into a subscription.\">'.",
      "      Property '[refused]' is missing in type 'Around<Message<unknown>, FullConfig<{ handles: { readonly _tag: \"EncodeError\"; }; answers: Answer; }>>' but required in type 'Refuse<\"This middleware reads messages that are consumed, and these are published: it belongs into a subscription.\">'."
    ]
  },
  {
    title: "a consumer's stack on a publisher",
    code: `Publisher.make(Orders, Stack.start().use(Audit.middleware()))`,
    says: [
      "error TS2769: No overload matches this call.",
      "  The last overload gave the following error.",
      "    Property '[refused]' is missing in type 'Stack<Message<Uint8Array<ArrayBufferLike>>, Message<Uint8Array<ArrayBufferLike>>, [FullConfig<{ requires: AuditStore; }>]>' but required in type 'Refuse<\"This stack reads messages that are consumed, and these are published: it belongs into a subscription.\">'."
    ]
  },
  {
    title: "another broker that nobody provides",
    code: `Effect.runPromise(Publisher.make(Broker.on(Broker.named("archive"), Orders)).publish({ id: "1" }))`,
    says: [
      "error TS2379: Argument of type 'Effect<void, BrokerError | EncodeError, Named<\"archive\">>' is not assignable to parameter of type 'Effect<void, BrokerError | EncodeError, never>' with 'exactOptionalPropertyTypes: true'. Consider adding 'undefined' to the types of the target's properties.",
      "  Type 'Named<\"archive\">' is not assignable to type 'never'."
    ]
  },
  {
    title: "routes by a header, and nothing for all other values",
    code: `Route.by((message: Message<Uint8Array>) => message.headers["type"], { placed: () => Effect.void })`,
    says: [
      "error TS2345: Argument of type '{ placed: () => Effect.Effect<void, never, never>; }' is not assignable to parameter of type '{ placed: () => Effect<void, never, never>; } & Refuse<\"Any text may come here: say after the routes what becomes of a message that none of them takes.\">'.",
      "  Property '[refused]' is missing in type '{ placed: () => Effect.Effect<void, never, never>; }' but required in type 'Refuse<\"Any text may come here: say after the routes what becomes of a message that none of them takes.\">'."
    ]
  },
  {
    title: "a value without a route",
    code:
      `Route.by((message: Message<Order>) => message.payload.id === "" ? "new" : "known", { new: () => Effect.void })`,
    says: [
      "error TS2741: Property 'known' is missing in type '{ new: () => Effect.Effect<void, never, never>; }' but required in type 'Routes<Message<{ readonly id: string; }>, \"known\" | \"new\">'."
    ]
  },
  {
    title: "a router whose stack decodes",
    code: `Router.make({ through: Stack.start().use(Decode.middleware(Channel.unchecked("a"))) })`,
    says: [
      "error TS2322: Type 'Stack<Message<Uint8Array<ArrayBufferLike>>, Message<unknown>, [FullConfig<{ requires: never; fails: DecodeError; answers: never; }>]>' is not assignable to type 'Stack<Message<Uint8Array<ArrayBufferLike>>, Message<unknown>, [FullConfig<{ requires: never; fails: DecodeError; answers: never; }>]> & Refuse<...>'.",
      "  Property '[refused]' is missing in type 'Stack<Message<Uint8Array<ArrayBufferLike>>, Message<unknown>, [FullConfig<{ requires: never; fails: DecodeError; answers: never; }>]>' but required in type 'Refuse<\"A router's stack hands on bytes: each handler decodes its own channel.\">'."
    ]
  }
]

const fileOf = (index: number): string => join(folder, `mistake${index}.ts`)
const printed = new Map<string, Array<string>>()

beforeAll(async () => {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  for (const [index, { code }] of mistakes.entries()) writeFileSync(fileOf(index), `${head}${code}\n`)
  writeFileSync(
    join(folder, "tsconfig.json"),
    JSON.stringify({
      extends: relative(folder, join(root, "tsconfig.json")),
      include: ["*.ts"],
      compilerOptions: {
        noEmit: true,
        rewriteRelativeImportExtensions: false,
        noUnusedLocals: false,
        noErrorTruncation: false
      }
    })
  )
  const { output } = await run("tsc", ["-p", folder, "--pretty", "false"])
  let lines: Array<string> = []
  for (const line of output.split("\n")) {
    const [, file, text] = /^(\S+)\(\d+,\d+\): (.*)$/.exec(line) ?? []
    if (file !== undefined) {
      lines = printed.get(join(root, file)) ?? []
      printed.set(join(root, file), lines)
    }
    if (line !== "") lines.push(text ?? line)
  }
}, 120_000)

describe("what the compiler says", () => {
  for (const [index, { says, title }] of mistakes.entries()) {
    it(title, () => assert.deepStrictEqual(printed.get(fileOf(index)), says))
  }
})
