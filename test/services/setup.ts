import { Kafka, Postgres, type ServerFailed, ServerUnavailable } from "@millrace/testing/servers"
import { Cause, Effect, Exit, Redacted, Scope } from "effect"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { text } from "node:stream/consumers"
import type { TestProject } from "vitest/node"

/** What the test run answers when a test file asks for a shared server. */
export type Answer =
  | { readonly _tag: "Ready"; readonly address: string }
  | { readonly _tag: "Unavailable"; readonly server: string; readonly tool: string; readonly message: string }
  | { readonly _tag: "Failed"; readonly message: string }

declare module "vitest" {
  interface ProvidedContext {
    readonly services: string
  }
}

// One of each for the whole run, started when the first test file asks for it.
const shared = {
  kafka: Effect.map(Kafka.make(), (kafka) => kafka.brokers.join(",")),
  postgres: Effect.map(Postgres.make(), (postgres) => Redacted.value(postgres.url))
}

export type SharedServer = keyof typeof shared

const answer = (exit: Exit.Exit<string, ServerUnavailable | ServerFailed>): Answer => {
  if (Exit.isSuccess(exit)) return { _tag: "Ready", address: exit.value }
  const error = Cause.squash(exit.cause)
  return error instanceof ServerUnavailable
    ? { _tag: "Unavailable", server: error.server, tool: error.tool, message: error.message }
    : { _tag: "Failed", message: error instanceof Error ? error.message : String(error) }
}

let close: () => Promise<void> = () => Promise.resolve()

/** Runs in vitest's own process, once before the first integration file: the test files' workers reach it by the address it provides. */
export const setup = async (project: TestProject): Promise<void> => {
  const scope = Scope.makeUnsafe()
  const started = new Map<SharedServer, Promise<Answer>>()
  const told = new Set<string>()

  const start = (name: SharedServer): Promise<Answer> => {
    const running = started.get(name) ?? Effect.runPromiseExit(Scope.provide(shared[name], scope)).then(answer)
    started.set(name, running)
    return running
  }

  const server = createServer(async (request, response) => {
    const path = request.url?.slice(1) ?? ""
    if (path in shared) {
      // the line above made it one of the names
      return response.end(JSON.stringify(await start(path as SharedServer)))
    }
    const missing = await text(request)
    if (!told.has(missing)) project.vitest.logger.warn(`\nTests that need it are skipped: ${missing}\n`)
    told.add(missing)
    return response.end()
  })
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening))
  project.provide("services", `http://127.0.0.1:${(server.address() as AddressInfo).port}`)

  close = async () => {
    server.close()
    server.closeAllConnections()
    await Effect.runPromise(Scope.close(scope, Exit.void))
  }
}

export const teardown = (): Promise<void> => close()
