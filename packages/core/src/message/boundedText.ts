/**
 * The text of a response that another server may make as long as it likes.
 */
import { Effect, Stream } from "effect"

/** Reads UTF-8 of at most so many bytes; fails with `tooLong` as soon as there are more. */
export const boundedText = <E, E2>(
  { stream }: { readonly stream: Stream.Stream<Uint8Array, E> },
  maximumBytes: number,
  tooLong: E2
): Effect.Effect<string, E | E2> =>
  Effect.suspend(() => {
    // a byte order mark stays in the text
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
    let left = maximumBytes
    let text = ""
    return Effect.map(
      Stream.runForEach(stream, (chunk) => {
        left -= chunk.length
        text += decoder.decode(chunk, { stream: true })
        return left < 0 ? Effect.fail(tooLong) : Effect.void
      }),
      () => text + decoder.decode()
    )
  })
