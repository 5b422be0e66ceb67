/**
 * The caller of a request, as a key for limits and stored answers: the principal that `Auth` found, or the client's address.
 */
import { Auth, type Envelope, OptionCheck } from "@millrace/core"
import { Context, Fiber, Option } from "effect"
import * as ClientAddress from "./ClientAddress.ts"
import type { Request } from "./Request.ts"

/**
 * Returns the principal of the current message as unique text: its issuer and its subject. Returns the empty string for an
 * unauthenticated message, so all unauthenticated callers count as one.
 *
 * For `by` of `RateLimit` and `caller` of `Idempotency` and `IdempotencyKey`, inside `Auth`: there is no principal outside of
 * `Auth`.
 *
 * **Example** (a limit for each user, across all routes)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Auth, RateLimit } from "@millrace/core"
 * import { Caller, type Request } from "@millrace/http"
 *
 * const handler = pipe(
 *   (request: Request) => Effect.succeed(request.path),
 *   RateLimit.middleware({ name: "user", by: Caller.principal, limit: 100, window: "1 minute" }),
 *   Auth.middleware()
 * )
 * ```
 */
export const principal = <M extends Envelope>(_message: M): string => {
  const fiber = Fiber.getCurrent()
  if (fiber === undefined) return ""
  const found = Option.getOrUndefined(Context.getOption(fiber.context, Auth.Principal))
  return found === undefined ? "" : JSON.stringify([found.issuer ?? null, found.subject])
}

/** Options of `address`. */
export interface AddressOptions extends ClientAddress.Options {
  /**
   * The length of the IPv6 prefix that identifies one caller, an integer from 1 to 128. A single connection usually has a /64
   * network, a larger customer a /56 or /48. Default: 64.
   */
  readonly prefix?: number | undefined
}

/**
 * Makes a function that returns the client's address behind trusted proxies, as a key for limits. For IPv6 that is the network
 * (`2001:db8:1:2::/64`), because each customer would otherwise have 2^64 limits; `unknown` if the server reports no address.
 *
 * **Example** (a limit for each address)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { RateLimit } from "@millrace/core"
 * import { Caller, type Request } from "@millrace/http"
 *
 * const handler = pipe(
 *   (request: Request) => Effect.succeed(request.path),
 *   RateLimit.middleware({ name: "address", by: Caller.address({ trusted: ["10.0.0.0/8"] }), limit: 20 })
 * )
 * ```
 *
 * @throws RangeError when an entry of `trusted` is neither an address nor a block, or `prefix` is out of range
 */
export const address = (
  options: AddressOptions = {}
): <M extends Request<unknown>>(request: M) => string => {
  const addressOf = ClientAddress.make(options)
  const bits = OptionCheck.make("Caller").count("prefix", options.prefix ?? ClientAddress.prefix, { most: 128 })
  return (request) => {
    const found = addressOf(request.source.address, request.source.headers)
    return found === undefined ? "unknown" : ClientAddress.network(found, bits)
  }
}
