/** Errors that other programs' code can fail with: code that reads an unknown error must survive each of them. */

const refusing = (field: string): Error =>
  Object.defineProperty(new Error("x"), field, {
    get: () => {
      throw new Error(`${field} cannot be read`)
    }
  })

const trapped = (): object => {
  const refuse = () => {
    throw new Error("trap")
  }
  return new Proxy(new Error("x"), {
    get: refuse,
    has: refuse,
    getPrototypeOf: refuse,
    ownKeys: refuse,
    getOwnPropertyDescriptor: refuse
  })
}

const chained = (length: number): Error => {
  const first = new Error("first")
  let last = first
  for (let i = 1; i < length; i++) {
    const next = new Error(`cause ${i}`)
    last.cause = next
    last = next
  }
  return first
}

const cyclic = (): Error => {
  const error = new Error("cyclic")
  error.cause = error
  return error
}

const once = <A>(make: () => A): () => A => {
  let made: A | undefined
  return () => made ??= make()
}

/** Odd errors by their oddity. */
export const oddErrors: ReadonlyArray<readonly [what: string, make: () => unknown]> = [
  ["undefined", () => undefined],
  ["null", () => null],
  ["a symbol", () => Symbol("odd")],
  ["a bigint", () => 1n],
  ["a function", () => () => "odd"],
  ["a Proxy whose traps throw", trapped],
  ["a revoked Proxy", () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    return proxy
  }],
  ...["message", "stack", "name", "_tag", "failure", "retryAfter", "cause"].map((field) =>
    [`a ${field} that throws`, () => refusing(field)] as const
  ),
  ["a message that is an object", () => Object.assign(new Error("x"), { message: { a: 1 } })],
  ["a name that is undefined", () => Object.assign(new Error("x"), { name: undefined })],
  ["a name that is a number", () => Object.assign(new Error("x"), { name: 7 })],
  ["a tag that objects inherit", () => ({ _tag: "constructor" })],
  ["a tag that is a prototype", () => ({ _tag: "__proto__" })],
  ["a tag with half a character", () => ({ _tag: "\ud800" })],
  ["a class that objects inherit", () => ({ _tag: "Odd", failure: "toString" })],
  ["a retryAfter that is no duration", () => ({ _tag: "Odd", failure: "permanent", retryAfter: "soon" })],
  ["no prototype", () => Object.assign(Object.create(null), { _tag: "Bare" })],
  ["a toString that throws", () => ({
    toString: () => {
      throw new Error("toString")
    }
  })],
  ["a bigint field", () => Object.assign(new Error("x"), { at: 1n })],
  ["a cause that is itself", cyclic],
  ["20,000 causes", once(() => chained(20_000))],
  ["errors of its own", () => new AggregateError([new Error("a"), new Error("b")], "many")],
  ["a message of 5 MB", once(() => new Error("y".repeat(5_000_000)))],
  ["frozen", () => Object.freeze(new Error("frozen"))]
]
