/**
 * Requests without automatic redirects: a redirect turns a POST into a GET without a body, and sends headers and trust to an
 * address that the program did not give.
 */
import { Context, Effect, Fiber, Tracer } from "effect"
import { FetchHttpClient, HttpClient, type HttpClientRequest } from "effect/http"

/** Statuses of a redirect (RFC 9110, 15.4), without 300, a choice, and 304, the answer to a condition. */
export const redirects: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])

/**
 * Runs an `HttpClient` request with `redirect: "manual"` for `fetch`; Effect's other clients follow no redirects.
 *
 * The program's other options for `fetch` stay, even if given when the client's layer was built: the client merges those
 * services internally, so the option is added there, by the function that decides about tracing.
 */
export const manualRedirects = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiber((outer) => {
    const isDisabled = outer.getRef(HttpClient.TracerDisabledWhen)
    // the client would not call `ask` with DisablePropagation set, so it is cleared for the client, and `ask` applies it
    const isSilent = outer.getRef(Tracer.DisablePropagation)
    const ask = (request: HttpClientRequest.HttpClientRequest): boolean => {
      const fiber = Fiber.getCurrent()
      if (fiber !== undefined) {
        const given = Context.getOrUndefined(
          fiber.context as Context.Context<FetchHttpClient.RequestInit>,
          FetchHttpClient.RequestInit
        )
        fiber.setContext(Context.add(fiber.context, FetchHttpClient.RequestInit, { ...given, redirect: "manual" }))
      }
      return isSilent || isDisabled(request)
    }
    const asked = Effect.provideService(self, HttpClient.TracerDisabledWhen, ask)
    return isSilent ? Effect.provideService(asked, Tracer.DisablePropagation, false) : asked
  })
