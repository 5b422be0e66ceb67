/** Credentials of NATS that may expire: obtained for each connection, and checked before the client uses them. */
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

/** One way to authenticate, and when it expires. Without `expiresAt`, the expiry of a JWT is read from its `exp` claim. */
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

/** The credentials that the client sends to the server, as texts. */
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

/** The claims of a JWT that are used here; undefined if the text is not a JWT. */
const claimsOf = (jwt: string): { readonly exp?: unknown } | undefined => {
  try {
    const claims: unknown = JSON.parse(Buffer.from(jwt.split(".")[1] ?? "", "base64url").toString())
    return typeof claims === "object" && claims !== null ? claims : undefined
  } catch {
    return undefined
  }
}

const isSeed = (text: string): boolean => /^SU[A-Z2-7]{56}$/.test(text)

/** The reason why the server can never accept the credentials, as the end of a sentence. */
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

/** Adds the expiry from the JWT, unless `expiresAt` is set. */
const ending = (issued: Issued): Issued => {
  if (issued.expiresAt !== undefined) return issued
  const { jwt } = proofOf(issued)
  const exp = jwt === undefined ? undefined : claimsOf(jwt)?.exp
  return typeof exp === "number" && exp > 0 ? { ...issued, expiresAt: exp * 1000 } : issued
}

/** Makes the NATS client's authenticator. */
export const authenticatorOf = (issued: Issued): Authenticator => {
  const { jwt, nkey, password, token, username } = proofOf(issued)
  const seed = nkey === undefined ? undefined : encoder.encode(nkey)
  if (jwt !== undefined) return jwtAuthenticator(jwt, seed)
  if (seed !== undefined) return nkeyAuthenticator(seed)
  return token === undefined ? usernamePasswordAuthenticator(username ?? "", password) : tokenAuthenticator(token)
}

/** Names the credentials in the error of a refused connection. */
export const kindOf = (issued: Issued): { readonly user?: string; readonly by: string } => {
  const { jwt, nkey, token, username } = proofOf(issued)
  if (jwt !== undefined) return { by: "JWT" }
  if (nkey !== undefined) return { by: "nkey" }
  return token === undefined ? { user: username ?? "", by: "password" } : { by: "token" }
}

/** Whether both send the same credentials to the server. */
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

/** Reads a credentials file; fails with `Invalid` if the file cannot be read. */
export const ofFile = (module: string, file: string): Effect.Effect<Issued, BrokerError.BrokerError> =>
  Effect.tryPromise({
    try: async () => ({ creds: await readFile(file, "utf8") }),
    catch: () =>
      Errors.invalid("connect", `${module}: credentialsFile ${file} cannot be read: correct its path or its rights.`)
  })
