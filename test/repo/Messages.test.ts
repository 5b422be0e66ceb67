import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { join, relative } from "node:path"
import { assert, beforeAll, describe, it } from "vitest"
import { root, run } from "./workspace.ts"

// Below test/, because that is where every workspace package resolves.
const folder = join(root, "test", ".cache", "messages")

const head = `import {
  Audit, Auth, Channel, DeadLetter, Decode, Filter, type Message, Metrics, type Outgoing, Publisher, RateLimit, Retry, Stack, Subscription
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
      compilerOptions: { noEmit: true, rewriteRelativeImportExtensions: false, noUnusedLocals: false }
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
