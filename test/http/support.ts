import { NodeHttpServer } from "@effect/platform-node"
import { Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import * as NodeServer from "@millrace/http/NodeServer"
import { Context, Deferred, Effect, Exit, Layer, Logger, References, Scope } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { createServer, type IncomingHttpHeaders, request as nodeRequest } from "node:http"
import { vi } from "vitest"

// a server that closes waits for the connections that its clients keep
vi.setConfig({ testTimeout: 30_000 })

/** What a client of Node's own got. */
export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  readonly json: () => Record<string, unknown>
}

/** What a client of Node's own sends; a body in parts is sent in chunks, without its length. */
export interface Sent {
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly body?: string | Uint8Array | ReadonlyArray<string | Uint8Array>
}

/** One request by `node:http`, with no client library between. */
export const call = (base: string, path: string, sent: Sent = {}): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const request = nodeRequest(base + path, {
      method: sent.method ?? "GET",
      headers: sent.headers ?? {},
      agent: false
    })
    request.on("error", reject)
    request.on("response", (response) => {
      const chunks: Array<Buffer> = []
      response.on("data", (chunk: Buffer) => chunks.push(chunk))
      response.on("error", reject)
      response.on("end", () => {
        const text = Buffer.concat(chunks).toString()
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text,
          json: () => JSON.parse(text) as Record<string, unknown>
        })
      })
    })
    if (Array.isArray(sent.body)) { for (const part of sent.body) request.write(part) }
    else if (sent.body !== undefined) request.write(sent.body)
    request.end()
  })

export const post = (base: string, path: string, body: unknown, headers: Record<string, string> = {}) =>
  call(base, path, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body)
  })

/** Routes on a real server at a free port; its base URL. */
export const serve = (
  ...routes: ReadonlyArray<HttpRouter.Route<never, never>>
): Effect.Effect<string, unknown, Scope.Scope> => serveWith(Server.layer(...routes))

/** A router's layer on a real server at a free port; its base URL. */
export const serveWith = <E>(
  app: Layer.Layer<never, E, HttpRouter.HttpRouter>,
  { config = Layer.empty, ...options }: NodeServer.Options & { readonly config?: Layer.Layer<never> } = {}
): Effect.Effect<string, unknown, Scope.Scope> =>
  Effect.map(
    Layer.build(
      HttpRouter.serve(app, { disableLogger: true, disableListenLog: true }).pipe(
        Layer.provide(config),
        Layer.provideMerge(NodeHttpServer.layer(NodeServer.make(createServer, options), { port: 0, host: "127.0.0.1" }))
      )
    ),
    (context) => {
      const { address } = Context.get(context, HttpServer.HttpServer)
      if (!("port" in address)) throw new Error("the server has no port")
      return `http://127.0.0.1:${address.port}`
    }
  )

/** Serves routes at a free port, with the services of its caller; the base URL. */
type Serve = <R>(
  routes: ReadonlyArray<Server.Route<R>>,
  options?: NodeServer.Options
) => Effect.Effect<string, unknown, Exclude<R, Scope.Scope> | Scope.Scope>

/** Both servers that routes may stand on. */
export const servers: { readonly [Name in "Listener" | "HttpRouter"]: Serve } = {
  Listener: (routes, options) =>
    Effect.map(
      Layer.build(Listener.layer(createServer, routes, { ...options, port: 0, host: "127.0.0.1" })),
      (context) => `http://127.0.0.1:${Context.get(context, Listener.Address).port}`
    ),
  HttpRouter: <R>(routes: ReadonlyArray<Server.Route<R>>, options?: NodeServer.Options) =>
    Effect.flatMap(Effect.context<Exclude<R, Scope.Scope>>(), (context) =>
      serveWith(
        // the services that the routes need are those of the context
        Server.layer(...routes).pipe(
          HttpRouter.provideRequest(Layer.succeedContext(Context.omit(Scope.Scope)(context)))
        ) as Layer.Layer<
          never,
          never,
          HttpRouter.HttpRouter
        >,
        options
      ))
}

/** Lines that were logged, with their annotations. */
export interface Line {
  readonly level: string
  readonly text: string
  readonly cause: string
  readonly annotations: Readonly<Record<string, unknown>>
}

export const logging = (lines: Array<Line>): Layer.Layer<never> =>
  Logger.layer([
    Logger.make(({ cause, fiber, logLevel, message }) => {
      lines.push({
        level: logLevel,
        text: String(message),
        cause: JSON.stringify(cause),
        annotations: fiber.getRef(References.CurrentLogAnnotations)
      })
    })
  ])

/** Something that happens once, and can be waited for. */
export const signal = () => {
  const deferred = Deferred.makeUnsafe<void>()
  return {
    now: () => void Deferred.doneUnsafe(deferred, Exit.void),
    happened: Deferred.await(deferred)
  }
}
