import { OptionCheck } from "@millrace/core"
import type { Duration } from "effect"
import type { Server } from "node:http"

/** Node's own default, which is taken for no choice of the program. */
const usual = 60_000

const standard = 20_000

/**
 * Gives the clients of a server so long for the head of a request. Node looks at its connections every 30 seconds unless it is told
 * otherwise before it listens, so a limit of seconds would be one of half a minute.
 */
export const limitHead = (
  module: string,
  headTimeout: Duration.Input | undefined
): (server: Server) => void => {
  const given = headTimeout === undefined ? undefined : OptionCheck.make(module).millis("headTimeout", headTimeout)
  return (server) => {
    const limit = given ?? (server.headersTimeout === usual ? standard : server.headersTimeout)
    if (limit === 0) return
    server.headersTimeout = limit
    if (server.requestTimeout !== 0 && server.requestTimeout < limit) server.requestTimeout = limit
    const watched = server as Server & { connectionsCheckingInterval?: number }
    const before = watched.connectionsCheckingInterval ?? Infinity
    watched.connectionsCheckingInterval = Math.max(1, Math.min(before, Math.ceil(limit / 4)))
  }
}
