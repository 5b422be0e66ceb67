/**
 * The mechanisms of SASL for kafkajs. Its own PLAIN and SCRAM take constants, and its OAUTHBEARER takes a refused token for an
 * accepted one.
 *
 * SCRAM: https://www.rfc-editor.org/rfc/rfc5802
 */
import type { Mechanism } from "kafkajs"
import { createHash, createHmac, pbkdf2, randomBytes, timingSafeEqual } from "node:crypto"
import { promisify } from "node:util"
import type { ResolvedOptions } from "../Options.ts"
import type { Login } from "../Password.ts"
import { refusalIn } from "../Token.ts"

type Sasl = NonNullable<ResolvedOptions["sasl"]>

/** Sends bytes to the broker and returns the bytes of its answer. */
type Exchange = (bytes: Buffer) => Promise<Buffer>

/** Makes kafkajs's mechanism. */
export const make = (sasl: Sasl): Mechanism => ({
  mechanism: sasl.mechanism.toUpperCase(),
  authenticationProvider: ({ saslAuthenticate }) => ({
    authenticate: async () => {
      const exchange: Exchange = async (bytes) => {
        const length = Buffer.alloc(4)
        length.writeInt32BE(bytes.length)
        const answer = await saslAuthenticate({
          request: { encode: () => Buffer.concat([length, bytes]) },
          // skips the length prefix
          response: { decode: (answer) => answer.subarray(4), parse: (answer) => answer }
        })
        return answer ?? Buffer.alloc(0)
      }
      try {
        await authenticate(sasl, exchange)
      } catch (cause) {
        // kafkajs's own error: after any other, kafkajs would go on unauthenticated
        throw Object.assign(new Error("The credentials were refused, or there are none", { cause }), {
          name: "KafkaJSSASLAuthenticationError",
          retriable: false
        })
      }
    }
  })
})

const authenticate = async (sasl: Sasl, exchange: Exchange): Promise<void> => {
  if (sasl.mechanism === "oauthbearer") {
    const refused = refusalIn(await exchange(Buffer.from(`n,,\x01auth=Bearer ${await sasl.tokens.next()}\x01\x01`)))
    if (refused !== undefined) throw refused
    return
  }
  const login = await sasl.passwords.next()
  if (sasl.mechanism === "plain") await exchange(Buffer.from(`\0${login.username}\0${login.password}`))
  else await scram(sasl.mechanism === "scram-sha-256" ? "sha256" : "sha512", login, exchange)
}

/** The fewest iterations that a server may ask for: fewer would let a false server guess the password. */
const leastIterations = 4096

const fieldsOf = (message: string): ReadonlyMap<string, string> =>
  new Map(message.split(",").map((field) => [field.slice(0, 1), field.slice(2)]))

const refused = (why: string): Error =>
  Object.assign(new Error(`SCRAM failed: ${why}`), { name: "KafkaJSSASLAuthenticationError" })

/** Proves the password without sending it, and has the server prove that it knows the password. */
export const scram = async (
  digest: "sha256" | "sha512",
  { password, username }: Pick<Login, "username" | "password">,
  exchange: Exchange,
  nonce: string = randomBytes(18).toString("base64")
): Promise<void> => {
  const hmac = (key: Buffer, text: string) => createHmac(digest, key).update(text).digest()
  const first = `n=${username.replaceAll("=", "=3D").replaceAll(",", "=2C")},r=${nonce}`
  const challenge = (await exchange(Buffer.from(`n,,${first}`))).toString()
  const fields = fieldsOf(challenge)
  const serverNonce = fields.get("r") ?? ""
  const iterations = Number(fields.get("i"))
  if (!serverNonce.startsWith(nonce) || serverNonce === nonce) throw refused("the server's nonce is wrong")
  if (!(iterations >= leastIterations)) throw refused(`the server asks for fewer than ${leastIterations} iterations`)
  const salt = Buffer.from(fields.get("s") ?? "", "base64")
  const salted = await promisify(pbkdf2)(password, salt, iterations, digest === "sha256" ? 32 : 64, digest)
  const final = `c=biws,r=${serverNonce}`
  const signed = `${first},${challenge},${final}`
  const clientKey = hmac(salted, "Client Key")
  const signature = hmac(createHash(digest).update(clientKey).digest(), signed)
  const proof = Buffer.from(clientKey.map((byte, i) => byte ^ signature[i]!))
  const verdict = fieldsOf((await exchange(Buffer.from(`${final},p=${proof.toString("base64")}`))).toString())
  const error = verdict.get("e")
  if (error !== undefined) throw refused(error)
  const proven = Buffer.from(verdict.get("v") ?? "", "base64")
  const expected = hmac(hmac(salted, "Server Key"), signed)
  if (proven.length !== expected.length || !timingSafeEqual(proven, expected)) {
    throw refused("the server does not know the password")
  }
}
