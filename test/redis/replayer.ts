/**
 * A process that replays the dead letters of a channel: `node replayer.ts URL CHANNEL`. It prints `begin` before the first
 * letter, and `end` after the last.
 */
import { DeadLetters } from "@millrace/core"
import { RedisStreams } from "@millrace/redis"
import { Console, Effect, Stream } from "effect"

const [, , url = "", channel = ""] = process.argv

await DeadLetters.replayAll(DeadLetters.channelOf(channel)).pipe(
  Stream.onStart(Console.log("begin")),
  Stream.runDrain,
  Effect.andThen(Console.log("end")),
  Effect.provide(RedisStreams.layer({ url })),
  Effect.runPromise
)
