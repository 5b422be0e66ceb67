/**
 * Requests that no client redirects by itself: a redirect turns a POST into a GET without a body, and carries headers and trust to
 * an address that the program did not give.
 */
import { Context, Effect, Fiber, Tracer } from "effect"
import { FetchHttpClient, HttpClient, type HttpClientRequest } from "effect/http"

/** Statuses of a redirect (RFC 9110, 15.4); 300 is a choice, and 304 answers a condition. */
export const redirects: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])

/**
 * Runs a request of an `HttpClient` with `redirect: "manual"` for `fetch`; other clients of Effect follow none.
 *
 * Other options of the program for `fetch` stay, also where they were given when the client's layer was built: its services are
 * merged inside the client, so the option is added there, by the function that decides about tracing.
 */
export const manualRedirects = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiber((outer) => {
    const isDisabled = outer.getRef(HttpClient.TracerDisabledWhen)
    // where it is set, the function is not asked
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
