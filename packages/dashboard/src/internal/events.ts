/**
 * Documents as server-sent events.
 * Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
import { type Context, Effect, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { headers, TooManyStreams } from "./answer.ts"

/** A document, and whether the stream ends with it. */
export interface Event {
  readonly text: string
  readonly isLast: boolean
}

/** A stream ends after so long, and the page opens another one: a server that ends waits for open answers. */
const longest = "15 seconds"

/** Streams for at most `most` readers: a document at once, and one each `every` milliseconds. */
export const streams = <R>(document: Effect.Effect<Event, never, R>, every: number, most: number) => {
  let open = 0
  return Effect.suspend(() => {
    if (open >= most) {
      return Effect.fail(
        new TooManyStreams({ message: `There are ${most} open streams: close a page, or set "streams"` })
      )
    }
    open++
    return Effect.contextWith((context: Context.Context<R>) =>
      Effect.succeed(HttpServerResponse.stream(
        Stream.tick(every).pipe(
          Stream.mapEffect(() => document),
          Stream.takeUntil(({ isLast }) => isLast),
          Stream.interruptWhen(Effect.sleep(longest)),
          // a browser connects again after this many milliseconds
          Stream.map(({ text }) => `retry: 2000\ndata: ${text}\n\n`),
          Stream.encodeText,
          Stream.ensuring(Effect.sync(() => void open--)),
          Stream.provideContext(context)
        ),
        { contentType: "text/event-stream", headers: { ...headers, "x-accel-buffering": "no" } }
      ))
    )
  })
}
