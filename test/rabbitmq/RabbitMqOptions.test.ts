import { Address, BrokerError } from "@millrace/core"
import { RabbitMq } from "@millrace/rabbitmq"
import { it } from "@effect/vitest"
import { Cause, ConfigProvider, Effect, Layer, Redacted } from "effect"
import * as fc from "fast-check"
import { inspect } from "node:util"
import { describe, expect } from "vitest"
import * as Options from "../../packages/rabbitmq/src/internal/Options.ts"
import { step } from "../../packages/rabbitmq/src/internal/DelayQueues.ts"
import * as Topology from "../../packages/rabbitmq/src/internal/Topology.ts"

const failure = (options: RabbitMq.Options) =>
  Effect.map(Effect.exit(Options.check(options)), (exit) => {
    const error = exit._tag === "Failure" ? Cause.squash(exit.cause) : undefined
    if (error instanceof BrokerError.BrokerError) return error
    throw new Error(`It was not refused as it should: ${inspect(exit)}`)
  })

const checked = (options: RabbitMq.Options) => Effect.orDie(Options.check(options))

describe("RabbitMQ's options", () => {
  it.effect("T9 a URL gives nodes, user, password, virtual host and TLS", () =>
    Effect.gen(function*() {
      const found = yield* checked({ url: "amqps://us%40er:p%3Aw%2Fd@one:1111,[::1],three/%2Fshop" })
      expect(found.nodes).toEqual([{ host: "one", port: 1111 }, { host: "::1", port: 5671 }, {
        host: "three",
        port: 5671
      }])
      expect([found.username, Redacted.value(found.password), found.vhost]).toEqual(["us@er", "p:w/d", "/shop"])
      expect(found.tls).toEqual({ key: undefined })
      expect((yield* checked({ url: "AMQPS://localhost" })).nodes).toEqual([{ host: "localhost", port: 5671 }])
      const plain = yield* checked({ url: Redacted.make("amqp://localhost") })
      expect(plain.nodes).toEqual([{ host: "localhost", port: 5672 }])
      expect([plain.username, plain.vhost, plain.tls]).toEqual(["guest", "/", undefined])
    }))

  it.effect("T9 what cannot be right is refused with the option's name, and no secret", () =>
    Effect.gen(function*() {
      const url = "amqp://localhost"
      const wrong: ReadonlyArray<readonly [RabbitMq.Options, string]> = [
        [{ url: "localhost:5672" }, "url"],
        [{ url: "http://user:hunter22@host" }, "url"],
        [{ url: "amqp://user:hunter22/x@host" }, "url"],
        [{ url: "amqp://user:hunter22@host:99999" }, "port"],
        [{ url: "amqp://hunter22@host" }, "password"],
        [{ url: "amqp://user:%ff%hunter22@host" }, "percent-encoded"],
        [{ url, tls: {} }, "amqps"],
        [{ url: "amqps://localhost", tls: { cert: "hunter22" } }, "tls"],
        [{ url, heartbeat: "10 millis" }, "heartbeat"],
        [{ url, connectTimeout: "-1 seconds" }, "connectTimeout"],
        [{ url, prefetch: 0 }, "prefetch"],
        [{ url, prefetch: 70_000 }, "prefetch"],
        [{ url, logBytes: 1.5 }, "logBytes"],
        [{ url, logAge: "a week" }, "logAge"],
        [{ url, exchange: "amq.topic" }, "exchange"],
        [{ url, authentication: "external" }, "tls.cert"],
        [{ url, channels: { orders: {} } }, "channels.orders"],
        [{ url, queueArguments: { "x-queue-type": "quorum" } }, "queueType"],
        [{ url, consumerPriority: 0 }, "consumerPriority"],
        [{ url: "amqp://user:hunter22@host?heartbeat=30" }, `heartbeat: "30 seconds"`],
        [{ url: "amqp://host/%2f?connection_timeout=10000&x=hunter22" }, "connectTimeout"],
        [{ url: "amqp://user:hunter22@host?x=y" }, `behind "?"`],
        [{ url: "amqp://user:hunter22@host//" }, "%2F"],
        [{ url: "AMQP://user:hunter22@host:5672/a/b" }, "%2F"],
        [{ url: "amqp://user:hunter22?hunter22@host" }, "percent-encoded"],
        // from programs without types
        [{ url, queueType: "lazy" } as unknown as RabbitMq.Options, "queueType"]
      ]
      for (const [options, name] of wrong) {
        const error = yield* failure(options)
        expect([error.reason, error.operation]).toEqual(["Invalid", "connect"])
        expect(error.message).toContain(name)
        expect(inspect(error, { depth: 9 })).not.toContain("hunter22")
        expect(JSON.stringify(error)).not.toContain("hunter22")
      }
    }))

  it.effect("B1 T9 the environment names what it lacks, and its password is shown nowhere", () =>
    Effect.gen(function*() {
      const withEnv = (env: Record<string, string>) =>
        Effect.exit(
          Effect.scoped(Layer.build(RabbitMq.layerConfig())).pipe(
            Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(env))
          )
        )
      const none = yield* withEnv({})
      expect(String(none)).toContain("RABBITMQ_URL")
      const nobody = yield* withEnv({
        RABBITMQ_URL: "amqp://127.0.0.1:1",
        RABBITMQ_USERNAME: "u",
        RABBITMQ_PASSWORD: "hunter22"
      })
      if (nobody._tag === "Success") throw new Error("Nobody is there")
      const error = Cause.squash(nobody.cause)
      expect(error).toBeInstanceOf(BrokerError.BrokerError)
      expect(inspect(nobody, { depth: 12 })).not.toContain("hunter22")
    }))
})

describe("RabbitMQ's patterns", () => {
  const consuming = (address: string) => ({
    channel: address,
    pattern: Address.pattern(address),
    group: "g",
    handler: "h",
    from: "earliest" as const,
    ordered: false,
    messages: 1,
    batch: 1,
    bytes: 1
  })

  it.effect("F20 a pattern's words take every channel that fits", () =>
    Effect.gen(function*() {
      const connection = yield* checked({ url: "amqp://localhost" })
      const keyOf = (address: string) => {
        const source = Topology.sourceOf(connection, consuming(address))
        return "reason" in source ? source.reason : source.binding?.key
      }
      expect(keyOf("orders.{region}.created")).toBe("orders.*.created")
      expect(keyOf("orders.{+rest}")).toBe("orders.#")
      expect(keyOf("orders/{id}.x")).toBe("*.x")
      expect(keyOf("orders/{+rest}")).toBe("*.#")
      expect(keyOf("{+rest}")).toBe("#")
      expect(keyOf("orders.*.{id}")).toBe("Invalid")
      expect(keyOf("#.{id}")).toBe("Invalid")
      expect(keyOf("a@b.{id}")).toBe("Invalid")
      expect(keyOf("or*ders.#x.{id}")).toBe("or*ders.#x.*")
    }))

  /** How a topic exchange matches. */
  const takes = (words: ReadonlyArray<string>, key: ReadonlyArray<string>): boolean => {
    const [word, ...rest] = words
    if (word === undefined) return key.length === 0
    if (word === "#") return takes(rest, key) || (key.length > 0 && takes(words, key.slice(1)))
    return key.length > 0 && (word === "*" || word === key[0]) && takes(rest, key.slice(1))
  }

  it.effect("F20 whatever fits a pattern is taken by its words", () =>
    Effect.gen(function*() {
      const connection = yield* checked({ url: "amqp://localhost" })
      const segment = fc.constantFrom("a", "b", "cd")
      const separator = fc.constantFrom(".", "/", ":")
      const part = fc.tuple(fc.boolean(), segment, separator)
      fc.assert(
        fc.property(
          fc.array(part, { minLength: 1, maxLength: 4 }),
          fc.array(fc.tuple(segment, separator), { maxLength: 3 }),
          fc.boolean(),
          (parts, more, hasRest) => {
            let address = ""
            let channel = ""
            for (const [i, [isParameter, text, between]] of parts.entries()) {
              address += isParameter ? `{p${i}}` : text
              channel += text
              address += between
              channel += between
            }
            address += hasRest ? "{+rest}" : "{last}"
            channel += hasRest ? `x${more.map(([text, between]) => between + text).join("")}` : "x"
            const pattern = Address.pattern(address)!
            expect(pattern.match(channel), `${address} ${channel}`).toBeDefined()
            const source = Topology.sourceOf(connection, consuming(address))
            if ("reason" in source) throw source
            expect(takes(source.binding!.key.split("."), channel.split(".")), `${source.binding!.key} ${channel}`).toBe(
              true
            )
          }
        )
      )
    }))

  it.effect("X5 names that RabbitMQ would read otherwise are refused", () =>
    Effect.gen(function*() {
      const connection = yield* checked({ url: "amqp://localhost" })
      for (const channel of ["", "a@b", "orders.*", "#", "x".repeat(201), "a\nb", "a\rb", "a\u0000b"]) {
        const source = Topology.sourceOf(connection, consuming(channel))
        expect("reason" in source && source.reason, channel).toBe("Invalid")
      }
      for (const group of ["", "a@b", "x".repeat(230), "a\nb", "a\rb", "a\tb"]) {
        const source = Topology.sourceOf(connection, { ...consuming("orders"), group })
        expect("reason" in source && source.reason, group).toBe("Invalid")
        if (group === "a\nb" && "reason" in source) expect(source.message).toContain(String.raw`"a\nb"`)
      }
      const routed = yield* checked({ url: "amqp://localhost", channels: { orders: { queue: "invoices" } } })
      const source = Topology.sourceOf(routed, { ...consuming("orders"), group: "" })
      expect("reason" in source && source.message).toContain("consumer group")
    }))
})

describe("RabbitMQ's waits", () => {
  it.effect("F11 a wait is never cut short, never an eighth longer, and few queues serve all", () =>
    Effect.sync(() => {
      fc.assert(
        fc.property(fc.integer({ min: 1, max: 2_000_000_000 }), (after) => {
          const wait = step(after)
          expect(wait).toBeGreaterThanOrEqual(after)
          expect(wait).toBeLessThanOrEqual(after * 1.125 + 1)
          expect(step(wait)).toBe(wait)
        })
      )
      const steps = new Set<number>()
      for (let after = 1; after < 3_600_000; after += 1 + Math.floor(after / 100)) steps.add(step(after))
      expect(steps.size).toBeLessThan(200)
      expect([step(0), step(0.2), step(1e12)]).toEqual([1, 1, 2_000_000_000])
    }))
})
