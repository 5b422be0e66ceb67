/**
 * Cross-origin requests of browsers, by Fetch's CORS protocol: declares which pages may read the answers of a route.
 */
import { Middleware, OptionCheck } from "@millrace/core"
import { Context, type Duration, Effect, Exit, type Layer } from "effect"
import { HttpEffect, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { joinedField } from "./internal/answer.ts"
import { firstWrong } from "./internal/headerText.ts"
import type { Request } from "./Request.ts"

/** The parts of a request that the policy reads. */
export interface Asked {
  readonly method: string
  /** Lower-case names. */
  readonly headers: { readonly [name: string]: string | undefined }
}

/** Options of `middleware` and `layer`. */
export interface Options {
  /**
   * The origins whose pages may read answers, e.g. `https://app.example.com`: a list, a function, or `*` for all. A function
   * that throws allows nothing. A list allows `null`, the origin of sandboxed pages and files, only if it contains `null`.
   */
  readonly origins: "*" | ReadonlyArray<string> | ((origin: string, request: Asked) => boolean)
  /** Whether a page may send cookies and read the answers to such requests; not with `*`. Default: false. */
  readonly credentials?: boolean | undefined
  /** The methods that a preflight allows. Default: see `defaults`. */
  readonly methods?: ReadonlyArray<string> | undefined
  /** The request headers that a preflight allows; `asked` allows all that the browser asks for. Default: `asked`. */
  readonly headers?: "asked" | ReadonlyArray<string> | undefined
  /** The response headers that pages may read beside the CORS-safelisted ones. Default: see `defaults`. */
  readonly exposes?: ReadonlyArray<string> | undefined
  /** How long a browser may cache the answer to a preflight, in whole seconds, from 0. Default: 10 minutes. */
  readonly maximumAge?: Duration.Input | undefined
  /** Whether pages from a public network may reach this server in a private network. Default: false. */
  readonly privateNetwork?: boolean | undefined
}

/** The defaults of `middleware`. */
export const defaults: {
  readonly methods: ReadonlyArray<string>
  readonly exposes: ReadonlyArray<string>
  readonly maximumAge: Duration.Input
} = {
  methods: ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"],
  exposes: ["idempotent-replayed", "ratelimit", "ratelimit-policy", "retry-after", "x-request-id"],
  maximumAge: "10 minutes"
}

const wrong = (option: string, must: string, got: unknown): never => {
  throw new RangeError(`Cors: ${option} must be ${must}, got ${JSON.stringify(got)}`)
}

/** Normalizes an origin to the form that browsers send (RFC 6454, 6.2). */
const originOf = (text: string): string => {
  if (text === "null") return text
  const url = URL.parse(text)
  return url === null || url.origin === "null" || url.origin !== text.toLowerCase()
    ? wrong("an origin", "a scheme and a host, with a port where it is not the scheme's own, and nothing after", text)
    : url.origin
}

const tokens = (option: string, names: ReadonlyArray<string>): ReadonlyArray<string> => {
  const bad = names.find((name) => firstWrong({ [name]: "" }) !== undefined)
  return bad === undefined ? names : wrong(option, "tokens", bad)
}

/** Whether a client's header is a list of names, which is safe to send back. */
const isList = (text: string): boolean =>
  text.length <= 4096 && /^[\w!#$%&'*+.^`|~-]+(?:\s*,\s*[\w!#$%&'*+.^`|~-]+)*$/.test(text)

/** Whether a request is a preflight, which a browser sends before the page's request. */
const isPreflight = ({ headers, method }: Asked): boolean =>
  method === "OPTIONS" && headers["origin"] !== undefined && headers["access-control-request-method"] !== undefined

type Fields = ReadonlyArray<readonly [name: string, value: string]>

/** Makes a function from a request to the CORS headers of its answer. */
const policy = (options: Options): (request: Asked) => Fields => {
  const { credentials = false, origins, privateNetwork = false } = options
  const check = OptionCheck.make("Cors")
  if (typeof origins === "string") check.oneOf("origins", origins, ["*"])
  if (origins === "*" && credentials) {
    wrong("origins", "a list or a function where credentials are allowed", origins)
  }
  const listed = Array.isArray(origins) ? new Set(origins.map(originOf)) : undefined
  const methods = tokens("methods", options.methods ?? defaults.methods).join(", ")
  const names = options.headers ?? "asked"
  const headers = typeof names === "string"
    ? check.oneOf("headers", names, ["asked"])
    : tokens("headers", names).join(", ")
  const exposes = tokens("exposes", options.exposes ?? defaults.exposes).join(", ")
  const age = String(check.seconds("maximumAge", options.maximumAge ?? defaults.maximumAge, { least: 0 }))
  const isAllowed = (origin: string, request: Asked): boolean => {
    if (listed !== undefined) return listed.has(origin)
    try {
      return typeof origins !== "function" || origins(origin, request) === true
    } catch {
      return false
    }
  }
  const varying: Fields = origins === "*" ? [] : [["vary", "Origin"]]
  const allowing: Fields = credentials ? [["access-control-allow-credentials", "true"]] : []
  const ofAnswer: Fields = exposes === "" ? [] : [["access-control-expose-headers", exposes]]
  const asking = "Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
  const ofPreflight = (request: Asked): Fields => {
    const asked = request.headers["access-control-request-headers"]
    const allowed = headers !== "asked" ? headers : asked !== undefined && isList(asked) ? asked : ""
    return [
      ["access-control-allow-methods", methods],
      ...(allowed === "" ? [] : [["access-control-allow-headers", allowed] as const]),
      ...(privateNetwork && request.headers["access-control-request-private-network"] === "true"
        ? [["access-control-allow-private-network", "true"] as const]
        : []),
      ["access-control-max-age", age]
    ]
  }
  return (request) => {
    const { origin } = request.headers
    const asks = isPreflight(request)
    const vary: Fields = asks ? [["vary", varying.length === 0 ? asking : `Origin, ${asking}`]] : varying
    if (origin === undefined || !isAllowed(origin, request)) return vary
    return [
      ["access-control-allow-origin", origins === "*" ? "*" : origin],
      ...allowing,
      ...(asks ? ofPreflight(request) : ofAnswer),
      ...vary
    ]
  }
}

const accepted = HttpServerResponse.empty({ status: 204 })

/**
 * Declares which pages may read the answers of a route, errors included, and answers preflights.
 *
 * Types: takes any request and passes it on; the answer may be an `HttpServerResponse`. Nothing enters E or R.
 *
 * A preflight (OPTIONS with `access-control-request-method`) is answered with 204 and never runs the inner handler; `Listener`
 * and `Server.layer` pass it to the route of the requested method. A page of another origin gets the answer without CORS
 * headers, so the browser hides the answer from it; the request itself runs, because CORS does not protect the server. Place it
 * outside `Auth` and `RateLimit`: a preflight has no credentials, and a browser shows a refusal only to an allowed origin.
 *
 * Source: https://fetch.spec.whatwg.org/#http-cors-protocol, https://wicg.github.io/private-network-access/
 *
 * **Example** (an API for two pages, with cookies)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Auth } from "@millrace/core"
 * import { Cors, type Request, Server } from "@millrace/http"
 *
 * const route = Server.route(
 *   "GET",
 *   "/orders",
 *   pipe(
 *     (request: Request) => Effect.succeed({ path: request.path }),
 *     Auth.middleware(),
 *     Cors.middleware({ origins: ["https://app.example.com", "https://admin.example.com"], credentials: true })
 *   )
 * )
 * ```
 *
 * @throws RangeError when an origin is invalid, `*` is combined with credentials, or a name is not a token
 * @category constructors
 */
export const middleware = (options: Options) => {
  const fields = policy(options)
  return Middleware.make<{ message: Request<unknown> }>()({
    name: "Cors",
    stage: "consume",
    shows: {
      origins: typeof options.origins === "function" ? "function" : options.origins,
      credentials: options.credentials
    },
    order: [
      { outside: "Auth", because: "a browser asks first without credentials" },
      { outside: "RateLimit", because: "a browser shows a refusal only where its origin is allowed" }
    ]
  }, (next) => (request): Middleware.Returns<never, never, HttpServerResponse.HttpServerResponse> => {
    for (const [name, value] of fields(request)) request.answerField(name, value, name === "vary" ? "cors" : "")
    return isPreflight(request) ? Exit.succeed(accepted) : next(request)
  })
}

/**
 * Applies the same policy to every answer of an Effect router: endpoints of `HttpApi`, other routes, and unmatched requests.
 *
 * **Example** (an `HttpApi` for every page)
 *
 * ```ts no-run
 * import { Layer } from "effect"
 * import { HttpRouter } from "effect/http"
 * import { Cors, Server } from "@millrace/http"
 *
 * declare const api: Layer.Layer<never, never, HttpRouter.HttpRouter>
 *
 * const app = HttpRouter.serve(Layer.mergeAll(api, Server.protocol(), Cors.layer({ origins: "*" })))
 * ```
 *
 * @throws RangeError as `middleware`
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<never, never, HttpRouter.HttpRouter> => {
  const fields = policy(options)
  return HttpRouter.use((router) =>
    router.addGlobalMiddleware((app) =>
      Effect.withFiber((fiber) => {
        const { context } = fiber
        // the router provides the request to every middleware
        const request = Context.get(
          context as Context.Context<HttpServerRequest.HttpServerRequest>,
          HttpServerRequest.HttpServerRequest
        )
        const found = fields(request)
        HttpEffect.appendPreResponseHandlerUnsafe(
          context,
          (_, response) =>
            Exit.succeed(HttpServerResponse.setHeaders(
              response,
              found.map(([name, value]) => [name, joinedField(name, response.headers[name], value)] as const)
            ))
        )
        return isPreflight(request) ? Exit.succeed(accepted) : app
      })
    )
  )
}
