import { OptionCheck } from "@millrace/core"
import type { Duration } from "effect"
import type { Server } from "node:http"

/** Node's own default, which does not count as a choice of the program. */
const usual = 60_000

const standard = 20_000

/**
 * Limits the time for a client to send the head of a request. Node checks its connections every 30 seconds unless the interval
 * is set before the server listens, so without it a limit of a few seconds would act after half a minute.
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
