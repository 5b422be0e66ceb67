/**
 * Finds routes by method and path, as Effect's router does.
 */
import { Description } from "@millrace/core"
import { FindMyWay, type HttpRouter } from "effect/http"
import type { Native, Route } from "./nativeRoute.ts"

/** A matched route and its parameters. */
export interface Found<R> {
  readonly handler: Native<R>
  readonly params: Readonly<Record<string, string | undefined>>
}

const noParams = {}

/** The longest path parameter, in characters: Node's default limit for the head of a request. */
export const longestParam = 16_384

/** The methods of `allow`, without HEAD and OPTIONS, which servers answer by themselves. */
const methods = ["DELETE", "GET", "PATCH", "POST", "PUT", "QUERY", "TRACE"]

/** Whether a route answers preflights, because its chain has the middleware `Cors`. */
export const hasCors = (route: object): boolean => Description.of(route).some(({ name }) => name === "Cors")

/** The paths that match a route; a path that ends with `/*` also matches without that ending. */
export const pathsOf = ({ path }: { readonly path: string }): ReadonlyArray<HttpRouter.PathInput> =>
  // a path of HttpRouter begins with a slash, or is `*`
  (path.endsWith("/*") ? [path, path.slice(0, -2)] : [path]) as ReadonlyArray<HttpRouter.PathInput>

/** Finds routes as Effect's router does; a route without parameters is found by a map lookup. */
export class RouteTable<R> {
  readonly #router = FindMyWay.make<Native<R>>({ ignoreDuplicateSlashes: true, maxParamLength: longestParam })
  readonly #declared = FindMyWay.make<true>({ ignoreDuplicateSlashes: true, maxParamLength: longestParam })
  /** Routes without parameters: by method, then by path. */
  readonly #fixed = new Map<string, Map<string, Found<R>>>()

  add(route: Route<R>, native: Native<R>): void {
    for (const path of pathsOf(route)) {
      if (route.method === "*") this.#router.all(path, native)
      else this.#router.on(route.method, path, native)
    }
    if (route.method !== "*" && !/[:*()]/.test(route.path)) {
      let paths = this.#fixed.get(route.method)
      if (paths === undefined) this.#fixed.set(route.method, paths = new Map<string, Found<R>>())
      paths.set(route.path, { handler: native, params: noParams })
    }
  }

  /** Declares a route outside of this table, for `allowed`. */
  declare(method: string, path: string): void {
    for (const each of pathsOf({ path })) this.#declared.on(method, each, true)
  }

  find(method: string, url: string): Found<R> | undefined {
    return this.#find(method, url) ?? (method === "HEAD" ? this.#find("GET", url) : undefined)
  }

  /** The route of the method that a preflight asks for, if that route answers preflights. */
  findPreflight(asked: string | undefined, url: string): Found<R> | undefined {
    const found = asked === undefined ? undefined : this.find(asked, url)
    return found?.handler.hasCors === true ? found : undefined
  }

  /** The methods of a path; empty if no route matches the path. */
  allowed(url: string): ReadonlyArray<string> {
    const found = methods.filter((method) =>
      (this.#find(method, url) ?? this.#declared.find(method, url)) !== undefined
    )
    return found.length === 0 ? [] : [...found, ...(found.includes("GET") ? ["HEAD"] : []), "OPTIONS"].sort()
  }

  #find(method: string, url: string): Found<R> | undefined {
    return this.#fixed.get(method)?.get(url) ?? this.#router.find(method, url)
  }
}
