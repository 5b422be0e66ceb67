import {
  Broker,
  type BrokerError,
  Channel,
  type Driver,
  Engine,
  Lanes,
  type Message,
  Outcome,
  Subscription
} from "@millrace/core"
import { RedisLists, RedisPubSub, RedisStreams } from "@millrace/redis"
import { Certificates, Redis as Servers } from "@millrace/testing/servers"
import { it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Logger, Redacted, type Scope, Stream } from "effect"
import { readFileSync } from "node:fs"
import { createServer } from "node:net"
import type { AddressInfo } from "node:net"
import { inspect } from "node:util"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { eventually, fresh, outgoing, plain } from "./support.ts"

const password = "p@ss w0rd/ü"
const secret = "hunter2:sekret"

const drivers: ReadonlyArray<
  readonly [
    string,
    (options: RedisPubSub.Options) => Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope>
  ]
> = [["streams", RedisStreams.driver], ["lists", RedisLists.driver], ["Pub/Sub", RedisPubSub.driver]]

/** Everything that a program may show of an error or a driver. */
const shown = (value: unknown): string =>
  [inspect(value, { depth: 20, showHidden: true }), JSON.stringify(value), String(value)].join("\n")

const hides = (value: unknown) => {
  for (const each of [password, encodeURIComponent(password), secret, encodeURIComponent(secret)]) {
    expect(shown(value)).not.toContain(each)
  }
}

const refusal = (what: string, make: Effect.Effect<unknown, BrokerError.BrokerError, Scope.Scope>) =>
  Effect.scoped(Effect.exit(make)).pipe(
    Effect.flatMap((exit) => {
      const reason = exit._tag === "Failure" ? exit.cause.reasons.find((each) => each._tag === "Fail") : undefined
      return reason === undefined ? Effect.die(new Error(`It was not refused: ${what}`)) : Effect.succeed(reason.error)
    }),
    Effect.tap((error) => Effect.sync(() => hides(error)))
  )

const starting = Effect.gen(function*() {
  const certificates = yield* Certificates.make
  const options = {
    password,
    users: {
      app: { password: secret, rules: ["~*", "&*", "+@all"] },
      reader: { password: secret, rules: ["~*", "&*", "+ping", "+client", "+select", "+xread"] }
    },
    tls: { ...certificates.server, caFile: certificates.caFile }
  }
  const mutual = yield* Servers.own({ ...options, tls: { ...options.tls, clients: "required" } })
  const tls = yield* Servers.own({ ...options, tls: { ...options.tls, clients: "optional" } })
  const open = yield* Servers.own()
  return { certificates, mutual, tls, open }
})

describeServer("Connecting to Redis", starting, (found) => {
  const as = (user: string, pass: string, address = found().tls.address, scheme = "redis") =>
    `${scheme}://${user}:${encodeURIComponent(pass)}@${address}`

  for (const [name, driver] of drivers) {
    it.live(`F3, X5 ${name}: by user and password, by password alone, to a database, with TLS, with a client's certificate`, () =>
      Effect.gen(function*() {
        const { certificates, mutual, open, tls } = found()
        const { ca, client } = certificates
        const ways: ReadonlyArray<RedisPubSub.Options> = [
          { url: as("app", secret) },
          { url: Redacted.make(as("", password)) },
          { url: `redis://${tls.address}`, username: "app", password: Redacted.make(secret) },
          { url: `redis://${tls.address}`, password },
          { url: `redis://${open.address}/3` },
          // asked for nothing, told nonetheless
          { url: `redis://${open.address}`, password: "needless" },
          { url: as("app", secret, tls.tlsAddress, "rediss"), tls: { ca } },
          {
            url: as("app", secret, mutual.tlsAddress, "rediss"),
            tls: { ca, cert: client.cert, key: Redacted.make(client.key) }
          },
          {
            url: as("app", secret, tls.tlsAddress!.replace("localhost", "127.0.0.1")),
            tls: { ca, serverName: "localhost" }
          }
        ]
        for (const way of ways) {
          yield* Effect.scoped(Effect.flatMap(driver(way), (made) => {
            hides(made)
            return Effect.andThen(made.check, made.publish([outgoing(fresh("ways"), "m")]))
          }))
        }
      }))

    it.live(`F3, X5 ${name}: what is refused says why and what to do, and shows no secret`, () =>
      Effect.gen(function*() {
        const { certificates, mutual, tls } = found()
        const { ca, client, stranger } = certificates
        const silent = yield* Effect.acquireRelease(
          Effect.callback<number>((resume) => {
            const server = createServer(() => {})
            server.listen(0, "127.0.0.1", () => resume(Effect.succeed((server.address() as AddressInfo).port)))
            closers.push(() => server.close())
          }),
          () => Effect.sync(() => closers.splice(0).forEach((close) => close()))
        )
        const app = (address: string | undefined, scheme = "rediss") => as("app", secret, address, scheme)
        const cases: ReadonlyArray<readonly [RedisPubSub.Options, BrokerError.Reason, string]> = [
          [{ url: as("app", "wrong" + secret) }, "Credentials", "check the user and the password"],
          [{ url: as("nobody", secret) }, "Credentials", "refused user nobody"],
          [{ url: `redis://${tls.address}` }, "Credentials", "give url a user and a password"],
          [{ url: app(tls.tlsAddress) }, "Credentials", "Give tls.ca"],
          [{ url: app(mutual.tlsAddress), tls: { ca } }, "Credentials", "tls.cert"],
          [
            { url: app(mutual.tlsAddress), tls: { ca, cert: stranger.cert, key: stranger.key } },
            "Credentials",
            "tls.cert"
          ],
          [
            { url: app(tls.tlsAddress), tls: { ca, serverName: "elsewhere" } },
            "Credentials",
            "by a name that it holds"
          ],
          [{ url: app(tls.tlsAddress, "redis"), connectTimeout: "500 millis" }, "Unreachable", "tls"],
          [{ url: app(tls.address), tls: { ca }, connectTimeout: "500 millis" }, "Unreachable", "tls"],
          [{ url: app("127.0.0.1:1", "redis") }, "Unreachable", "start it, or correct url"],
          [{ url: app("nowhere.invalid:1", "redis") }, "Unreachable", "correct url"],
          [{ url: app(`127.0.0.1:${silent}`, "redis"), connectTimeout: "300 millis" }, "Unreachable", "in time"],
          [{ url: `${app(tls.address, "redis")}/99` }, "Invalid", "no such database"],
          [{ url: app(tls.address, "http") }, "Invalid", "url must be redis://"],
          [{ url: `redis//${secret}@x` }, "Invalid", "url must be redis://"],
          [{ url: app(tls.address, "redis") + "/one" }, "Invalid", "must be a number"],
          [{ url: app(tls.address, "redis") + "?x=1" }, "Invalid", "no parameters"],
          [{ url: `redis://app@${tls.address}` }, "Invalid", "user:password@"],
          [{ url: `redis://${tls.address}`, username: "app" }, "Invalid", "password"],
          [{ url: app(tls.address), tls: { cert: client.cert } }, "Invalid", "both cert and key"],
          [{ url: app(tls.address), connectTimeout: "nonsense" as "1 second" }, "Invalid", "connectTimeout must be"],
          [{ url: app(tls.address), clientId: "with space" }, "Invalid", "clientId"]
        ]
        for (const [options, reason, what] of cases) {
          const error = yield* refusal(what, driver(options))
          expect([error.system, error.reason, error.operation], error.message).toEqual(["redis", reason, "connect"])
          expect(error.message).toContain(what)
        }
      }).pipe(Effect.scoped))

    it.live(`F3, X5 ${name}: what a user may not do is refused with what to grant`, () =>
      Effect.gen(function*() {
        const made = yield* driver({ url: as("reader", secret) })
        const error = yield* refusal("publishing", made.publish([outgoing(fresh("denied"), secret)]))
        expect([error.reason, error.operation]).toEqual(["Permission", "publish"])
        expect(error.message).toContain("User reader may not do this")
        expect(error.message).toContain("ACL")
      }).pipe(Effect.scoped))

    it.live(`X5 ${name}: a user or password that is taken away later is refused then, by name`, () =>
      Effect.gen(function*() {
        const raw = yield* plain(found().tls)
        yield* Effect.promise(() => raw.acl("SETUSER", "guest", "on", `>${secret}`, "~*", "&*", "+@all"))
        const made = yield* driver({ url: as("guest", secret) })
        yield* made.check
        // removes its connections, too
        yield* Effect.promise(() => raw.acl("DELUSER", "guest"))
        let seen: BrokerError.BrokerError | undefined
        yield* eventually(async () => {
          const exit = await Effect.runPromise(Effect.exit(made.check))
          const reason = exit._tag === "Failure" ? exit.cause.reasons.find((each) => each._tag === "Fail") : undefined
          seen = reason?.error
          return seen?.reason === "Credentials"
        })
        expect(seen?.message).toContain("refused user guest")
        hides(seen)
      }).pipe(Effect.scoped))
  }

  it.live("F3 the rights that docs/redis.md names are enough to publish, consume in every way, browse and count", () =>
    Effect.gen(function*() {
      const page = readFileSync(new URL("../../docs/redis.md", import.meta.url), "utf8")
      const rights = (begin: string) => new RegExp(`${begin}[^\\n]*?\`(\\+[^\`]+)\``).exec(page)![1]!.split(" ")
      const raw = yield* plain(found().tls)
      const cases: ReadonlyArray<readonly [string, string, ReadonlyArray<Lanes.Lanes>]> = [
        ["streams", "- Streams:", [Lanes.partition, Lanes.unordered(2)]],
        ["lists", "- Lists:", [Lanes.unordered(2)]],
        ["Pub/Sub", "- Pub/Sub:", [Lanes.partition]]
      ]
      for (const [name, begin, lanes] of cases) {
        const driver = drivers.find(([each]) => each === name)![1]
        for (const lane of lanes) {
          const channel = fresh("rights")
          yield* Effect.promise(() =>
            raw.acl(
              "SETUSER",
              "limited",
              "reset",
              "on",
              `>${secret}`,
              `~${channel}`,
              `~{${channel}}:millrace:*`,
              `~${channel}.dead-letters`,
              `~{${channel}.dead-letters}:millrace:*`,
              `&${channel}`,
              ...rights("A user needs these rights"),
              ...rights(begin)
            )
          )
          yield* Effect.promise(() => raw.acl("LOG", "RESET"))
          yield* Effect.scoped(Effect.gen(function*() {
            const made = yield* driver({ url: as("limited", secret) })
            const broker = Engine.make(made)
            yield* broker.declare({ channel })
            const got: Array<number> = []
            yield* Subscription.run(Subscription.make(
              Channel.bytes(channel),
              { group: "g", name: "n", lanes: lane, backoff: { base: 10 } },
              ({ attempt }: Message<Uint8Array>) => {
                got.push(attempt)
                return Effect.succeed(attempt === 1 ? Outcome.Retry() : Outcome.Ack)
              }
            )).pipe(Effect.provideService(Broker.Broker, broker))
            yield* broker.publish(outgoing(channel, "m"))
            yield* eventually(() => got.length === 2)
            if (made.capabilities.browse) yield* Stream.runDrain(broker.browse(channel))
            if (made.capabilities.lag) yield* broker.lag(channel, "g")
            // time for a sweep and a sign of life
            yield* Effect.sleep("1200 millis")
          }))
          expect(yield* Effect.promise(() => raw.acl("LOG"))).toEqual([])
        }
      }
    }))

  it.live("F3 the environment gives address and credentials, and logs show none of them", () =>
    Effect.gen(function*() {
      const said: Array<string> = []
      const logger = Logger.make((entry) => void said.push(shown(entry.message)))
      for (const layer of [RedisStreams.layerConfig(), RedisLists.layerConfig(), RedisPubSub.layerConfig()]) {
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* broker.check
          const raw = yield* plain(found().tls)
          expect(yield* Effect.promise(() => raw.call("CLIENT", "LIST"))).toContain("name=from-environment")
          yield* Effect.log("the broker", broker)
        }).pipe(Effect.provide(Layer.provideMerge(layer, Logger.layer([logger]))), Effect.scoped)
      }
      expect(said.length).toBe(3)
      for (const line of said) hides(line)
      const missing = yield* Effect.flip(
        Effect.provide(Broker.Broker, RedisStreams.layerConfig()).pipe(
          Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown({}))
        )
      )
      expect(String(missing)).toContain("REDIS_URL")
    }).pipe((effect) =>
      Effect.provideService(
        effect,
        ConfigProvider.ConfigProvider,
        ConfigProvider.fromUnknown({ REDIS_URL: as("app", secret), REDIS_CLIENT_ID: "from-environment" })
      )
    ))
})

const closers: Array<() => void> = []
