/**
 * What delayed retries promise on any broker, in real time: lives that end and begin again in the middle, messages that fail once, and
 * messages that fail for ever.
 */
import { Broker, Channel, DeadLetters, type Delivery, Outgoing, Retries, Subscription } from "@millrace/core"
import { Data, Effect, Exit, Scope, Stream } from "effect"
import { assert } from "vitest"

class Trouble extends Data.TaggedError("Trouble")<{}> {
  readonly failure = "transient"
}

interface Run {
  readonly text: string
  readonly attempt: number
  readonly began: number
  readonly place: string
  ended: number
}

const total = 40
const delays = [400, 900] as const

export const delayedRetries = (channel: string, group: string): Effect.Effect<void, unknown, Broker.Broker> =>
  Effect.gen(function*() {
    const broker = yield* Broker.Broker
    const runs: Array<Run> = []
    const done = new Set<string>()
    const handle = (message: Delivery) =>
      Effect.gen(function*() {
        const text = new TextDecoder().decode(message.payload)
        const clock = yield* Effect.clockWith(Effect.succeed)
        const run: Run = {
          text,
          attempt: message.attempt,
          began: clock.currentTimeMillisUnsafe(),
          place: `${message.channel} ${message.origin.group} ${message.partition}/${message.position} ${
            message.headers["n"]
          }`,
          ended: Infinity
        }
        runs.push(run)
        yield* Effect.ensuring(
          Effect.sleep(5),
          Effect.sync(() => run.ended = clock.currentTimeMillisUnsafe())
        )
        const kind = Number(text) % 4
        if (kind === 0 || (kind === 1 && message.attempt === 1)) return yield* new Trouble()
        done.add(text)
      })
    const subscription = Subscription.make(Channel.bytes(channel), {
      group,
      name: "work",
      retries: Retries.delayed(delays)
    }, handle)
    const letters = Effect.map(
      Stream.runCollect(DeadLetters.list(`${channel}.dead-letters`)),
      (all) =>
        all.map(({ attempts, channel, delivery, partition, position }) => ({
          text: new TextDecoder().decode(delivery.raw),
          attempts,
          place: `${channel} ${partition}/${position}`
        }))
    ).pipe(Effect.orElseSucceed(() => []))
    yield* broker.publishAll(
      Array.from(
        { length: total },
        (_, i) => new Outgoing(channel, new TextEncoder().encode(String(i)), `k${i % 5}`, { n: String(i) })
      )
    )
    const isOver = Effect.map(letters, (all) => all.length >= total / 4 && done.size === total * 3 / 4)
    for (let life = 0; life < 30 && !(yield* isOver); life++) {
      const scope = yield* Scope.make()
      yield* Scope.provide(Subscription.run(subscription), scope)
      // the second comes while some wait; the others have time enough
      yield* Effect.sleep(life === 0 ? 300 : 3000)
      yield* Scope.close(scope, Exit.void)
    }
    const first = new Map<string, Run>()
    for (const run of runs) if (!first.has(run.text)) first.set(run.text, run)
    for (const run of runs) {
      assert.strictEqual(run.place, first.get(run.text)!.place)
      if (run.attempt === 1) continue
      const before = runs.find(({ attempt, text }) => text === run.text && attempt === run.attempt - 1)
      assert.isDefined(before, `${run.text} has no attempt before ${run.attempt}`)
      // clocks of one machine, in whole milliseconds
      assert.isAtLeast(run.began - before!.ended, delays[run.attempt - 2]! - 2)
    }
    assert.isAtMost(Math.max(...runs.map(({ attempt }) => attempt)), delays.length + 1)
    const texts = (kinds: ReadonlyArray<number>) =>
      Array.from({ length: total }, (_, i) => i).filter((i) => kinds.includes(i % 4)).map(String).toSorted()
    assert.deepStrictEqual([...done].toSorted(), texts([1, 2, 3]))
    const written = yield* letters
    assert.deepStrictEqual([...new Set(written.map(({ text }) => text))].toSorted(), texts([0]))
    for (const letter of written) {
      assert.strictEqual(letter.attempts, 3)
      assert.include(first.get(letter.text)!.place.replace(` ${group}`, ""), letter.place)
    }
  })
