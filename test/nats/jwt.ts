/**
 * Operator, accounts and users of NATS by JWT, as `nsc` makes them.
 *
 * Source: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt
 */
import { createHash } from "node:crypto"
import { nkeys } from "@nats-io/transport-node"

type KeyPair = ReturnType<typeof nkeys.createUser>

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

const base32 = (bytes: Uint8Array): string => {
  const bits = Array.from(bytes, (byte) => byte.toString(2).padStart(8, "0")).join("")
  return (bits.match(/.{1,5}/g) ?? []).map((each) => alphabet[parseInt(each.padEnd(5, "0"), 2)]).join("")
}

const encoded = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url")

const signed = (issuer: KeyPair, subject: KeyPair, name: string, nats: object, exp?: number): string => {
  const claims = {
    iat: Math.floor(Date.now() / 1000),
    iss: issuer.getPublicKey(),
    name,
    sub: subject.getPublicKey(),
    ...(exp === undefined ? {} : { exp }),
    nats: { ...nats, version: 2 }
  }
  const jti = base32(createHash("sha256").update(JSON.stringify(claims)).digest())
  const text = `${encoded({ typ: "JWT", alg: "ed25519-nkey" })}.${encoded({ ...claims, jti })}`
  return `${text}.${Buffer.from(issuer.sign(Buffer.from(text))).toString("base64url")}`
}

const limits = {
  subs: -1,
  conn: -1,
  leaf: -1,
  imports: -1,
  exports: -1,
  data: -1,
  payload: -1,
  wildcards: true
}

/** A JWT of a user, and the seed of its key. */
export interface UserJwt {
  readonly jwt: string
  readonly nkey: string
  /** Both as a file of credentials has them. */
  readonly creds: string
}

/** An operator with one account, which has JetStream. */
export const operator = () => {
  const [root, system, account] = [nkeys.createOperator(), nkeys.createAccount(), nkeys.createAccount()]
  const accountOf = (name: string, key: KeyPair, jetStream: object) =>
    signed(root, key, name, {
      limits: { ...limits, ...jetStream },
      default_permissions: { pub: {}, sub: {} },
      type: "account"
    })
  const preload = [
    [system, accountOf("SYS", system, {})],
    [account, accountOf("APP", account, { mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 })]
  ] as const
  return {
    /** Lines of the server's configuration. */
    settings: [
      `operator: ${signed(root, root, "operator", { type: "operator", system_account: system.getPublicKey() })}`,
      `system_account: ${system.getPublicKey()}`,
      "resolver: MEMORY",
      "resolver_preload: {",
      ...preload.map(([key, jwt]) => `  ${key.getPublicKey()}: ${jwt}`),
      "}"
    ],
    /** A user whose JWT ends at a Unix time in seconds. */
    user: (name: string, exp?: number): UserJwt => {
      const key = nkeys.createUser()
      const jwt = signed(account, key, name, {
        pub: {},
        sub: {},
        subs: -1,
        data: -1,
        payload: -1,
        type: "user"
      }, exp)
      const nkey = Buffer.from(key.getSeed()).toString()
      const block = (title: string, text: string) => `-----BEGIN ${title}-----\n${text}\n------END ${title}------\n`
      return { jwt, nkey, creds: `${block("NATS USER JWT", jwt)}\n${block("USER NKEY SEED", nkey)}` }
    }
  }
}
