/**
 * Credentials of NATS that may expire: obtained for each connection, and checked before the client sees them.
 */
import { type BrokerError, Credentials, DriverOptions } from "@millrace/core"
import {
  type Authenticator,
  jwtAuthenticator,
  nkeyAuthenticator,
  tokenAuthenticator,
  usernamePasswordAuthenticator
} from "@nats-io/transport-node"
import { Effect, type Redacted } from "effect"
import { readFile } from "node:fs/promises"
import * as Errors from "./Errors.ts"

type Secret = string | Redacted.Redacted

/** One way to authenticate, and when it ends. The end of a JWT is read from its own `exp` where `expiresAt` is left out. */
export type Issued =
  & Credentials.Issued
  & (
    | { readonly username: string; readonly password: Secret }
    | { readonly token: Secret }
    /** The seed of a user's nkey, `SU…`. */
    | { readonly nkey: Secret }
    /** A user's JWT, and the seed of its nkey; without the seed a bearer JWT. */
    | { readonly jwt: Secret; readonly nkey?: Secret | undefined }
    /** The text of a file of credentials: a JWT and the seed of its key. */
    | { readonly creds: Secret }
  )

const { plain } = DriverOptions
const encoder = new TextEncoder()

/** What the server is told, as texts. */
interface Proof {
  readonly username?: string
  readonly password?: string
  readonly token?: string
  readonly nkey?: string
  readonly jwt?: string
}

const block = (name: string) => new RegExp(`-{3,}BEGIN ${name}-{3,}\\s*(\\S+)\\s*-{3,}END ${name}-{3,}`)
const [jwtBlock, seedBlock] = [block("NATS USER JWT"), block("USER NKEY SEED")]

const proofOf = (issued: Issued): Proof => {
  if ("creds" in issued) {
    const text = plain(issued.creds)
    const [jwt, nkey] = [jwtBlock.exec(text)?.[1], seedBlock.exec(text)?.[1]]
    return { jwt: jwt ?? "", ...(nkey === undefined ? {} : { nkey }) }
  }
  if ("jwt" in issued) {
    return { jwt: plain(issued.jwt), ...(issued.nkey === undefined ? {} : { nkey: plain(issued.nkey) }) }
  }
  if ("nkey" in issued) return { nkey: plain(issued.nkey) }
  if ("token" in issued) return { token: plain(issued.token) }
  return { username: issued.username, password: plain(issued.password) }
}

/** The claims of a JWT that are read here; undefined where the text is no JWT. */
const claimsOf = (jwt: string): { readonly exp?: unknown } | undefined => {
  try {
    const claims: unknown = JSON.parse(Buffer.from(jwt.split(".")[1] ?? "", "base64url").toString())
    return typeof claims === "object" && claims !== null ? claims : undefined
  } catch {
    return undefined
  }
}

const isSeed = (text: string): boolean => /^SU[A-Z2-7]{56}$/.test(text)

/** Why the server could never take them, as the end of a sentence. */
const refused = (issued: Issued): string | undefined => {
  const { jwt, nkey, password, token, username } = proofOf(issued)
  if (jwt !== undefined && claimsOf(jwt) === undefined) return "the JWT of the user cannot be read"
  if (nkey !== undefined && !isSeed(nkey)) {
    return "the nkey is not the seed of a user's key, which begins with SU and has 58 characters"
  }
  if (token === "") return "the token is empty"
  if (username === "" || password === "") return "the username or the password is empty"
  return undefined
}

/** Credentials with the end that their JWT names. */
const ending = (issued: Issued): Issued => {
  if (issued.expiresAt !== undefined) return issued
  const { jwt } = proofOf(issued)
  const exp = jwt === undefined ? undefined : claimsOf(jwt)?.exp
  return typeof exp === "number" && exp > 0 ? { ...issued, expiresAt: exp * 1000 } : issued
}

/** What the client of NATS authenticates with. */
export const authenticatorOf = (issued: Issued): Authenticator => {
  const { jwt, nkey, password, token, username } = proofOf(issued)
  const seed = nkey === undefined ? undefined : encoder.encode(nkey)
  if (jwt !== undefined) return jwtAuthenticator(jwt, seed)
  if (seed !== undefined) return nkeyAuthenticator(seed)
  return token === undefined ? usernamePasswordAuthenticator(username ?? "", password) : tokenAuthenticator(token)
}

/** How the error of a refused connection names them. */
export const kindOf = (issued: Issued): { readonly user?: string; readonly by: string } => {
  const { jwt, nkey, token, username } = proofOf(issued)
  if (jwt !== undefined) return { by: "JWT" }
  if (nkey !== undefined) return { by: "nkey" }
  return token === undefined ? { user: username ?? "", by: "password" } : { by: "token" }
}

/** Whether the server is told the same by both. */
export const areSame = (one: Issued, other: Issued): boolean =>
  JSON.stringify(proofOf(one)) === JSON.stringify(proofOf(other))

/** Makes the credentials of a driver. */
export const make = (source: Credentials.Source<Issued>): Credentials.Credentials<Issued> =>
  Credentials.make<Issued>({
    system: "nats",
    product: "NATS",
    source: Effect.map(source, ending),
    refuse: refused,
    secrets: (issued) => {
      const { jwt, nkey, password, token } = proofOf(issued)
      return [jwt, nkey, password, token].flatMap((each) => each === undefined ? [] : [each, encodeURIComponent(each)])
    }
  })

/** Reads a file of credentials; fails with `Invalid` where it cannot be read. */
export const ofFile = (module: string, file: string): Effect.Effect<Issued, BrokerError.BrokerError> =>
  Effect.tryPromise({
    try: async () => ({ creds: await readFile(file, "utf8") }),
    catch: () =>
      Errors.invalid("connect", `${module}: credentialsFile ${file} cannot be read: correct its path or its rights.`)
  })
