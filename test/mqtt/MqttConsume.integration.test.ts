import { it } from "@effect/vitest"
import {
  Address,
  Broker,
  Channel,
  DeadLetters,
  Engine,
  type Headers,
  Lanes,
  type Message,
  Outcome,
  Subscription
} from "@millrace/core"
import { Mosquitto } from "@millrace/testing/servers"
import { Effect, Exit, Fiber, Random, Redacted } from "effect"
import type { Packet } from "mqtt"
import { type ChildProcess, spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { relay } from "./relay.ts"
import {
  acknowledge,
  driverOf,
  eventually,
  fresh,
  optionsOf,
  outgoing,
  plain,
  rawClient,
  reading,
  Recorder,
  textOf
} from "./support.ts"

const numbered = (n: number, prefix = "m") => Array.from({ length: n }, (_, i) => `${prefix}-${i}`)

/** A consumer in a process of its own, and what it has printed. */
const child = (server: Mosquitto.MosquittoServer, ...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const file = fileURLToPath(new URL("fixtures/consumer.ts", import.meta.url))
      const process_: ChildProcess = spawn(process.execPath, [file, Redacted.value(server.url), ...args], {
        stdio: ["ignore", "pipe", "inherit"]
      })
      const lines: Array<string> = []
      process_.stdout!.on("data", (chunk: Buffer) => lines.push(...chunk.toString().trim().split("\n")))
      const ended = new Promise<void>((resolve) => process_.once("exit", () => resolve()))
      return { lines, kill: Effect.promise(() => (process_.kill("SIGKILL"), ended)) }
    }),
    ({ kill }) => kill
  )

describeServer("MQTT consumes", Mosquitto.own(), (server) => {
  it.live("X5 X3 acknowledges in the order in which messages came, whatever runs beside what", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const qos of [1, 2] as const) {
        const wire = yield* relay(server())
        const channel = fresh("acks")
        const driver = yield* driverOf(server(), { qos })
        const through = yield* driverOf({ ...server(), url: wire.url }, { qos })
        const done = new Set<string>()
        const subscription = Subscription.make(
          Channel.bytes(channel),
          { group: channel, lanes: Lanes.unordered(16) },
          ({ payload }) =>
            Random.nextIntBetween(0, 9).pipe(
              Effect.flatMap((n) => n < 3 ? Effect.void : Effect.sleep(n)),
              Effect.andThen(Effect.sync(() => done.add(textOf(payload))))
            )
        )
        yield* Subscription.run(subscription).pipe(
          Effect.provideService(Broker.Broker, Engine.make(through))
        )
        yield* driver.publish(numbered(400).map((text) => outgoing(channel, text)))
        const answer = qos === 1 ? 4 : 5
        const acks = () => wire.toServer.filter(({ type }) => type === answer).map(({ id }) => id)
        yield* eventually(() => done.size === 400 && acks().length >= 400)
        const came = wire.toClient.filter(({ type }) => type === 3).map(({ id }) => id)
        expect(acks()).toEqual(came)
      }
    })))

  it.live("X5 has no more messages in flight than it was told, and goes on when they are settled", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("maximum")
      const driver = yield* driverOf(server(), { consumer: { receiveMaximum: 7 } })
      const { recorder } = yield* reading(driver, { channel, group: channel })
      const wanted = numbered(30)
      yield* driver.publish(wanted.map((text) => outgoing(channel, text)))
      yield* eventually(() => recorder.taken.length >= 7)
      yield* Effect.sleep("200 millis")
      expect(recorder.texts).toEqual(wanted.slice(0, 7))
      // the second is done and the first is not: the order of acknowledgements holds both
      yield* acknowledge(recorder, ["m-1"])
      yield* Effect.sleep("200 millis")
      expect(recorder.taken.length).toBe(7)
      yield* acknowledge(recorder, ["m-0"])
      yield* eventually(() => recorder.taken.length >= 9)
      yield* Effect.sleep("100 millis")
      expect(recorder.texts).toEqual(wanted.slice(0, 9))
    })))

  it.live("X5 X4 a consumer killed in the middle gets what it had not acknowledged when it comes back", () =>
    Effect.scoped(Effect.gen(function*() {
      for (const qos of ["1", "2"] as const) {
        const [channel, clientId] = [fresh("killed"), fresh("killed-client")]
        const consumer = yield* child(server(), clientId, channel, "3", qos)
        yield* eventually(() => consumer.lines.includes("ready"))
        const publisher = yield* driverOf(server(), { qos: qos === "1" ? 1 : 2 })
        const wanted = numbered(8)
        yield* publisher.publish(wanted.map((text) => outgoing(channel, text)))
        yield* eventually(() => consumer.lines.length >= 9)
        yield* consumer.kill
        yield* publisher.publish([outgoing(channel, "while away")])
        const again = yield* driverOf(server(), { clientId, qos: qos === "1" ? 1 : 2 })
        const { recorder } = yield* reading(again, { channel, group: "child" })
        yield* eventually(() => recorder.texts.includes("while away"))
        expect(recorder.texts).toEqual([...wanted.slice(3), "while away"])
      }
    })))

  it.live("X5 the last will of a killed process is published, and that of one that stops is not", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("will")
      const driver = yield* driverOf(server())
      const { recorder } = yield* reading(driver, { channel: `${channel}/gone`, group: channel })
      yield* Effect.scoped(
        driverOf(server(), { will: outgoing(`${channel}/gone`, "it stopped", { key: "k" }) })
      )
      const consumer = yield* child(server(), fresh("will-client"), channel)
      yield* eventually(() => consumer.lines.includes("ready"))
      yield* consumer.kill
      yield* eventually(() => recorder.taken.length > 0)
      expect(recorder.texts).toEqual(["it died"])
      expect(recorder.taken[0]!.headers["x-why"]).toBe("killed")
    })))

  it.live("X5 at QoS 2 a message whose receipt was lost on the way is not handled again in the same process", () =>
    Effect.scoped(Effect.gen(function*() {
      const wire = yield* relay(server())
      const channel = fresh("once")
      const publisher = yield* driverOf(server(), { qos: 2 })
      const driver = yield* driverOf({ ...server(), url: wire.url }, { qos: 2 })
      const first = yield* reading(driver, { channel, group: channel })
      yield* publisher.publish(["a", "b"].map((text) => outgoing(channel, text)))
      yield* eventually(() => first.recorder.taken.length === 2)
      let lost = 0
      wire.lose = ({ type }) => type === 5 && ++lost > 0
      yield* acknowledge(first.recorder, ["a"])
      expect(yield* Effect.flip(Fiber.join(first.fiber))).toMatchObject({ operation: "consume", reason: "Lost" })
      yield* first.close
      expect(lost).toBe(1)
      wire.lose = () => false
      const second = yield* reading(driver, { channel, group: channel })
      yield* publisher.publish([outgoing(channel, "c")])
      yield* eventually(() => second.recorder.texts.includes("c"))
      yield* acknowledge(second.recorder)
      // the server sent both again: `a` was answered, `b` handled
      expect(second.recorder.texts).toEqual(["b", "c"])
      yield* eventually(() => wire.toServer.filter(({ type }) => type === 7).length === 3)
    })))

  it.live("X5 a message that comes again keeps its position, and one of another connection cannot be settled", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("again")
      const driver = yield* driverOf(server())
      const first = yield* reading(driver, { channel, group: channel })
      yield* driver.publish(["a", "b", "c"].map((text) => outgoing(channel, text)))
      yield* eventually(() => first.recorder.taken.length === 3)
      yield* acknowledge(first.recorder, ["b"])
      yield* first.stop
      expect(yield* Effect.flip(acknowledge(first.recorder))).toMatchObject({ operation: "settle", reason: "Lost" })
      const second = yield* reading(driver, { channel, group: channel })
      yield* eventually(() => second.recorder.taken.length === 2)
      expect(second.recorder.taken.map(({ position, raw }) => [textOf(raw), position])).toEqual([["a", 0], ["c", 2]])
    })))

  it.live("X4 whoever takes over the session of a running client ends it with an error that names it, and the engine comes back", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("taken")
      const wire = yield* relay(server())
      const options = optionsOf({ ...server(), url: wire.url })
      const driver = yield* driverOf(server(), options)
      const first = yield* reading(driver, { channel, group: channel })
      // the id of the session is in its CONNECT, behind the header, the protocol's name and the properties
      const connects = wire.toServer.filter(({ type }) => type === 1)
      const clientId =
        new RegExp(`${options.clientId}-[0-9a-f]{16}`).exec(connects.at(-1)!.bytes.toString("latin1"))![0]
      yield* rawClient(server(), { clientId, clean: false })
      // Mosquitto 2.0 ends it without the word that MQTT 5 has for it
      const error = yield* Effect.flip(Fiber.join(first.fiber))
      expect(error).toMatchObject({ operation: "consume", reason: "Lost" })
      expect(error.message).toContain(`another process may have the clientId of ${clientId}`)
      yield* first.close
      const got: Array<string> = []
      const subscription = Subscription.make(
        Channel.bytes(channel),
        { group: channel, lanes: Lanes.unordered(1), restart: { base: 10, cap: 50 } },
        ({ payload }) => Effect.sync(() => got.push(textOf(payload)))
      )
      const running = yield* Subscription.run(subscription).pipe(
        Effect.provideService(Broker.Broker, Engine.make(driver))
      )
      yield* rawClient(server(), { clientId, clean: false })
      yield* Effect.repeat(running.health, { until: ({ restarts, state }) => restarts > 0 && state === "running" })
      yield* driver.publish([outgoing(channel, "after")])
      yield* eventually(() => got.includes("after"))
    })))

  it.live("X5 what is retained comes to a new exclusive session from the earliest, with its mark, and an empty one removes it", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("retained")
      const driver = yield* driverOf(server(), { consumer: { sharing: "exclusive" } })
      yield* driver.publish([outgoing(channel, "state", { headers: { "mqtt-retain": "true", other: "x" } })])
      const earliest = yield* reading(driver, { channel, group: "earliest" })
      const latest = yield* reading(driver, { channel, group: "latest", from: "latest" })
      yield* driver.publish([outgoing(channel, "event")])
      yield* eventually(() => earliest.recorder.taken.length === 2 && latest.recorder.taken.length === 1)
      expect(earliest.recorder.taken.map(({ headers, raw }) => [textOf(raw), { ...headers }])).toEqual([
        ["state", { "mqtt-retain": "true", other: "x" }],
        ["event", {}]
      ])
      expect(latest.recorder.texts).toEqual(["event"])
      yield* driver.publish([outgoing(channel, "", { headers: { "mqtt-retain": "true" } })])
      const none = yield* reading(driver, { channel, group: "none" })
      yield* driver.publish([outgoing(channel, "next")])
      yield* eventually(() => none.recorder.taken.length > 0)
      expect(none.recorder.texts).toEqual(["next"])
    })))

  it.live("F4 F13 reads what other clients say of a message, each in its place, and writes it so", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("fields")
      const driver = yield* driverOf(server())
      const raw = yield* rawClient(server())
      const { recorder } = yield* reading(driver, { channel, group: channel })
      const packets: Array<Packet & { readonly cmd: "publish" }> = []
      raw.on("message", (_topic, _body, packet) => packets.push(packet))
      yield* Effect.promise(() => raw.subscribeAsync(channel, { qos: 1 }))
      const properties = {
        contentType: "text/plain",
        correlationData: Buffer.from([0, 255, 7]),
        responseTopic: "answers/here",
        messageExpiryInterval: 60,
        userProperties: { twice: ["first", "second"], "X-Upper": "upper", "x-upper": "lower", "millrace-key": "k" }
      }
      yield* Effect.promise(() => raw.publishAsync(channel, "foreign", { qos: 1, properties }))
      yield* eventually(() => recorder.taken.length === 1 && packets.length === 1)
      const [delivery] = recorder.taken
      expect(delivery!.key).toBe("k")
      expect({ ...delivery!.headers }).toEqual({
        "content-type": "text/plain",
        "reply-to": "answers/here",
        "mqtt-expiry": "60",
        twice: "first",
        "x-upper": "upper"
      })
      const fields = delivery!.fields.map(([name, value]) => [name, Buffer.from(value!).toString("latin1")])
      expect(fields).toContainEqual(["correlation-id", "\0\xff\x07"])
      // a copy by its fields, as dead letters are made, says the same to others
      yield* driver.publish([outgoing(channel, "copy", { native: { fields: delivery!.fields }, key: "k" })])
      yield* eventually(() => packets.length === 2)
      const { topicAlias: _, ...said } = packets[1]!.properties!
      expect(said).toEqual({ ...packets[0]!.properties })
    })))

  it.live("F13 X5 a dead letter is the message as it came, and is written before the message is acknowledged", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("letters")
      const driver = yield* driverOf(server())
      const letters = yield* reading(driver, { channel: DeadLetters.channelOf(channel), group: "letters" })
      const subscription = Subscription.make(
        Channel.bytes(channel),
        { group: channel, lanes: Lanes.unordered(1) },
        (_: Message<Uint8Array>) => Effect.succeed(Outcome.DeadLetter(new Error("no use")))
      )
      const running = yield* Subscription.run(subscription).pipe(
        Effect.provideService(Broker.Broker, Engine.make(driver))
      )
      const fields: ReadonlyArray<Headers.Field> = [
        ["twice", Buffer.from("first")],
        ["twice", Buffer.from("second")],
        ["correlation-id", Buffer.from([0, 255])],
        ["content-type", Buffer.from("text/plain")]
      ]
      yield* driver.publish([outgoing(channel, "bad", { key: "k", native: { fields } })])
      yield* eventually(() => letters.recorder.taken.length === 1)
      yield* Effect.repeat(running.health, { until: ({ pending, settled }) => pending === 0 && settled === 1 })
      const [letter] = letters.recorder.taken
      const shown = letter!.fields.map(([name, value]) => [name, Buffer.from(value!).toString("latin1")])
      for (const [name, value] of fields) expect(shown).toContainEqual([name, Buffer.from(value!).toString("latin1")])
      expect(shown.filter(([name]) => name === "twice").map(([, value]) => value)).toEqual(["first", "second"])
      expect([textOf(letter!.raw), letter!.key]).toEqual(["bad", "k"])
      expect(letter!.headers[DeadLetters.names.channel]).toBe(channel)
    })))

  it.live("F13 X5 a dead letter that nobody subscribes to is not confirmed, and its message waits until somebody does", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("unread")
      const wire = yield* relay(server())
      const driver = yield* driverOf({ ...server(), url: wire.url })
      const subscription = Subscription.make(
        Channel.bytes(channel),
        { group: channel, lanes: Lanes.unordered(1) },
        (_: Message<Uint8Array>) => Effect.succeed(Outcome.DeadLetter(new Error("no use")))
      )
      const running = yield* Subscription.run(subscription).pipe(
        Effect.provideService(Broker.Broker, Engine.make(driver))
      )
      const publisher = yield* driverOf(server())
      yield* publisher.publish([outgoing(channel, "bad")])
      // the answer to the letter, and none to the message
      yield* eventually(() => wire.toClient.some(({ bytes, type }) => type === 4 && bytes[4] === 16))
      expect(yield* running.health).toMatchObject({ pending: 1, settled: 0 })
      expect(wire.toServer.filter(({ type }) => type === 4)).toEqual([])
      const letters = yield* reading(publisher, { channel: DeadLetters.channelOf(channel), group: "letters" })
      yield* eventually(() => letters.recorder.taken.length === 1)
      yield* Effect.repeat(running.health, { until: ({ pending, settled }) => pending === 0 && settled === 1 })
      expect(letters.recorder.texts).toEqual(["bad"])
      yield* eventually(() => wire.toServer.some(({ type }) => type === 4))
    })))

  it.live("F20 a pattern reads what fits it, also where MQTT's wildcards are wider", () =>
    Effect.scoped(Effect.gen(function*() {
      const root = fresh("patterns")
      // some of what is published fits nobody
      const driver = yield* driverOf(server(), { producer: { unheard: "confirm" } })
      const levels = ["eu", "us", "eu.west", "a:b", ""]
      const topics = levels.flatMap((one) =>
        levels.flatMap((two) => [`${root}/${one}`, `${root}/${one}/${two}`, `${root}/x.${one}/${two}/z`])
      )
      for (
        const address of [
          `${root}/{one}`,
          `${root}/{one}/{two}`,
          `${root}/{+rest}`,
          `${root}/x.{one}/{two}/z`,
          `${root}/{one}.west`,
          `${root}/x.{+rest}`
        ]
      ) {
        const pattern = Address.pattern(address)!
        const wanted = [...new Set(topics)].filter((topic) => pattern.match(topic) !== undefined)
        expect(wanted.length).toBeGreaterThan(0)
        const { recorder, stop } = yield* reading(driver, { channel: address, group: root, pattern })
        yield* driver.publish([...new Set(topics)].map((topic) => outgoing(topic, topic)))
        yield* eventually(() => recorder.taken.length >= wanted.length)
        yield* Effect.sleep("50 millis")
        expect(recorder.texts.toSorted()).toEqual(wanted.toSorted())
        expect(recorder.taken.map(({ channel }) => channel)).toEqual(recorder.texts)
        yield* acknowledge(recorder)
        yield* stop
      }
    })))

  it.live("X5 refuses names that MQTT would read otherwise, and groups that it cannot have", () =>
    Effect.scoped(Effect.gen(function*() {
      const driver = yield* driverOf(server())
      for (const channel of ["", "a/+/b", "a/#", "+", "$share/g/a", "a\0b", "a\nb"]) {
        for (
          const attempt of [
            driver.publish([outgoing(channel, "m")]),
            driver.declare({ channel }),
            Effect.scoped(driver.consume({ ...plain, channel, group: "g" }, new Recorder()))
          ]
        ) {
          expect(yield* Effect.flip(attempt)).toMatchObject({ reason: "Invalid", failure: "permanent" })
        }
      }
      for (const group of ["", "a/b", "a+", "#"]) {
        const refused = Effect.scoped(driver.consume({ ...plain, channel: "a", group }, new Recorder()))
        expect(yield* Effect.flip(refused)).toMatchObject({ reason: "Invalid" })
      }
      expect(yield* Effect.flip(driver.declare({ channel: "a", settings: { x: "y" } }))).toMatchObject({
        reason: "Unsupported"
      })
    })))

  it.live("X5 T9 at QoS 0 a consumer that has no room loses no connection, and gets what waited in order", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("patient")
      const [wire, idle] = [yield* relay(server()), yield* relay(server())]
      const options = { qos: 0, keepalive: "1 second", consumer: { sharing: "exclusive" } } as const
      const driver = yield* driverOf({ ...server(), url: wire.url }, options)
      const publisher = yield* driverOf(server(), { qos: 0 })
      const recorder = new Recorder()
      let open: () => void = () => {}
      const room = new Promise<void>((resolve) => open = resolve)
      recorder.room = Effect.promise(() => room)
      const { fiber } = yield* reading(driver, { channel, group: channel, batch: 10 }, recorder)
      const wanted = numbered(4000)
      yield* publisher.publish(wanted.map((text) => outgoing(channel, text)))
      yield* reading(yield* driverOf({ ...server(), url: idle.url }, options), {
        channel: fresh("idle"),
        group: "idle"
      })
      const pings = ({ toServer }: typeof wire) => toServer.filter(({ type }) => type === 12).length
      // more than twice as long as a connection may be silent
      yield* eventually(() => pings(idle) >= 8)
      // it cannot read the answers, and the server hears of it as often as of one that can
      expect(pings(wire)).toBeGreaterThanOrEqual(pings(idle))
      expect(recorder.taken.length).toBeLessThanOrEqual(10)
      expect(fiber.pollUnsafe()).toBeUndefined()
      recorder.room = undefined
      open()
      yield* eventually(() => recorder.taken.length >= wanted.length)
      expect(recorder.texts).toEqual(wanted)
    })))
})

describeServer("MQTT notices", Mosquitto.own(), (server) => {
  it.live("X4 T9 a server that has fallen silent, by the signs of life that do not come", () =>
    Effect.scoped(Effect.gen(function*() {
      const channel = fresh("silent")
      const driver = yield* driverOf(server(), { keepalive: "1 second", connectTimeout: "1 second" })
      const { fiber } = yield* reading(driver, { channel, group: channel })
      const pid = (yield* server().pid)!
      yield* Effect.acquireUseRelease(
        Effect.sync(() => process.kill(pid, "SIGSTOP")),
        () =>
          Effect.gen(function*() {
            expect(yield* Effect.flip(driver.check)).toMatchObject({ operation: "check", reason: "Lost" })
            const exit = yield* Fiber.await(fiber)
            expect(Exit.isFailure(exit) && String(exit.cause)).toContain("Keepalive timeout")
            const error = yield* Effect.flip(driver.publish([outgoing(channel, "m")]))
            expect(["Lost", "Unreachable"]).toContain(error.reason)
          }),
        () => Effect.sync(() => process.kill(pid, "SIGCONT"))
      )
      yield* Effect.eventually(driver.check)
    })))
})
