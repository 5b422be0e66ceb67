/**
 * Who sent a request, for what is counted or kept by caller: the principal that `Auth` found, or the address.
 */
import { Auth, type Envelope, OptionCheck } from "@millrace/core"
import { Context, Fiber, Option } from "effect"
import * as ClientAddress from "./ClientAddress.ts"
import type { Request } from "./Request.ts"

/**
 * The principal of the message that is being handled, as text that no other principal has: its issuer and its subject. The
 * empty string where nobody was authenticated, so all of those are one caller.
 *
 * For `by` of `RateLimit` and `caller` of `Idempotency` and `IdempotencyKey`, inside `Auth`: outside of it there is no principal.
 *
 * **Example** (so many calls for each user, whatever the route)
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
   * How many bits of an address of IPv6 are one caller, an integer from 1 to 128: a connection of one customer has 64 bits to choose
   * from, one of many customers a network of 56 or 48. Default: 64.
   */
  readonly prefix?: number | undefined
}

/**
 * The address of the client, behind the proxies that are trusted, as what is counted by client needs it: of IPv6 the network
 * (`2001:db8:1:2::/64`), or each customer would have 2^64 limits; `unknown` where the server does not say.
 *
 * **Example** (so many calls for each address)
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
 * @throws RangeError when an entry of `trusted` is no address and no block, or `prefix` is out of range
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
