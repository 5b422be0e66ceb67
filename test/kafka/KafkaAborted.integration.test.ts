import { it } from "@effect/vitest"
import type { Kafka as Servers } from "@millrace/testing/servers"
import { Effect } from "effect"
import { Kafka as KafkaJs, logLevel, type Message, type Producer, type Transaction } from "kafkajs"
import { expect } from "vitest"
import { describeKafka } from "../services/describe.ts"
import { classic, type Client, consuming, contents, eventually, fresh, kafkajs, optionsOf, textOf } from "./support.ts"

/** Two producers of another program, and what they write in transactions. */
const writing = async (
  brokers: Array<string>,
  write: (begin: ReadonlyArray<() => Promise<Transaction>>) => Promise<void>
): Promise<void> => {
  const client = new KafkaJs({ brokers, logLevel: logLevel.NOTHING })
  const producers: Array<Producer> = []
  for (let i = 0; i < 2; i++) {
    const producer = client.producer({ transactionalId: fresh("writer"), idempotent: true, maxInFlightRequests: 1 })
    await producer.connect()
    producers.push(producer)
  }
  await write(producers.map((producer) => () => producer.transaction()))
  await Promise.all(producers.map((producer) => producer.disconnect()))
}

const key = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

const histories: ReadonlyArray<
  readonly [
    name: string,
    write: (
      send: (transaction: Transaction, ...messages: ReadonlyArray<Message>) => Promise<unknown>,
      begin: ReadonlyArray<() => Promise<Transaction>>
    ) => Promise<unknown>
  ]
> = [
  ["that overlap, where the later one ends first", async (send, [one, other]) => {
    const first = await one!()
    await send(first, { value: "aborted" })
    const second = await other!()
    await send(second, { value: "aborted" })
    await second.abort()
    await send(first, { value: "aborted" })
    await first.abort()
  }],
  ["with a key of four zero bytes", async (send, [one]) => {
    const transaction = await one!()
    for (const each of [1, 0, 2]) await send(transaction, { key: key(each), value: "aborted" })
    await transaction.abort()
  }],
  ["beside one that is committed, by the same producers in turn", async (send, [one, other]) => {
    for (const end of ["abort", "commit", "abort"] as const) {
      const [first, second] = [await one!(), await other!()]
      await send(first, { value: end === "abort" ? "aborted" : "committed" })
      await send(second, { value: end === "abort" ? "committed" : "aborted" })
      await first[end]()
      await second[end === "abort" ? "commit" : "abort"]()
    }
  }]
]

const reading = (client: Client) => (kafka: () => Servers.KafkaServer) => {
  for (const [name, write] of histories) {
    it.live(`X5 no message of aborted transactions ${name} is delivered or browsed`, () =>
      Effect.gen(function*() {
        const driver = yield* client.driver(optionsOf(kafka()))
        const channel = fresh("aborted")
        yield* driver.declare({ channel, partitions: 1 })
        yield* Effect.promise(() =>
          writing(kafka().brokers, async (begin) => {
            await write(
              (transaction, ...messages) => transaction.send({ topic: channel, messages: [...messages] }),
              begin
            )
            const last = await begin[0]!()
            await last.send({ topic: channel, messages: [{ value: "last" }] })
            await last.commit()
          })
        )
        const { recorder, stop } = yield* consuming(driver, { channel, group: fresh("group") })
        yield* eventually(() => recorder.texts.includes("last"))
        expect(recorder.texts).not.toContain("aborted")
        yield* stop
        const browsed = yield* Effect.provide(contents(channel), client.layer(optionsOf(kafka())))
        expect(browsed.map(({ raw }) => textOf(raw))).toEqual(recorder.texts)
      }).pipe(Effect.scoped), 60_000)
  }
}

for (const client of [kafkajs, classic]) describeKafka(`aborted transactions by ${client.name}`, reading(client))
