/**
 * Signatures of tokens that are checked at once, without a thread and a wait for it: for algorithms whose check takes some 50
 * microseconds. A longer check would hold up other messages and stays with jose.
 */
import type * as jose from "jose"
import { constants, KeyObject, type SigningOptions, verify } from "node:crypto"
import type { Key } from "./keys.ts"

const pkcs = { padding: constants.RSA_PKCS1_PADDING }
const pss = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST }

/** RFC 7518, 3.3 to 3.5, without the curves P-384 and P-521. */
const schemes: { readonly [alg: string]: readonly [hash: string, options: SigningOptions] } = {
  RS256: ["sha256", pkcs],
  RS384: ["sha384", pkcs],
  RS512: ["sha512", pkcs],
  PS256: ["sha256", pss],
  PS384: ["sha384", pss],
  PS512: ["sha512", pss],
  ES256: ["sha256", { dsaEncoding: "ieee-p1363" }]
}

/** The longest modulus, in bits, and the exponent of nearly all keys: with others a check takes longer. */
const quick = { modulus: 4096, exponent: 65537n }

const isQuick = ({ asymmetricKeyDetails, asymmetricKeyType }: KeyObject): boolean =>
  asymmetricKeyType === "ec" ||
  (asymmetricKeyType === "rsa" && asymmetricKeyDetails?.publicExponent === quick.exponent &&
    (asymmetricKeyDetails.modulusLength ?? Infinity) <= quick.modulus)

/** The parts of a token's header by which a key is chosen. */
export interface Chooses {
  readonly alg: string
  readonly kid: string | undefined
}

/** Keys that jose has chosen for a header, and by which it has verified a token with that header. */
export class QuickKeys {
  readonly #kept = new WeakMap<Key, Map<string, KeyObject>>()

  #name({ alg, kid }: Chooses): string {
    return kid === undefined ? alg : `${alg} ${kid}`
  }

  /** Keeps what jose has verified with; a header that no key fits never comes here, so there are few. */
  keep(key: Key, header: Chooses, verified: jose.CryptoKey | Uint8Array): void {
    if (schemes[header.alg] === undefined || verified instanceof Uint8Array) return
    const object = KeyObject.from(verified)
    if (!isQuick(object)) return
    let kept = this.#kept.get(key)
    if (kept === undefined) this.#kept.set(key, kept = new Map<string, KeyObject>())
    kept.set(this.#name(header), object)
  }

  /** Whether the key has signed the token, which has three parts of base64url; undefined where jose must say. */
  hasSigned(key: Key, header: Chooses, token: string): boolean | undefined {
    const object = this.#kept.get(key)?.get(this.#name(header))
    const scheme = schemes[header.alg]
    if (object === undefined || scheme === undefined) return undefined
    const [hash, options] = scheme
    const end = token.lastIndexOf(".")
    const signed = Buffer.from(token.slice(0, end), "latin1")
    return verify(hash, signed, { key: object, ...options }, Buffer.from(token.slice(end + 1), "base64url"))
  }
}
