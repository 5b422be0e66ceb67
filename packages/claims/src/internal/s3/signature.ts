/**
 * Requests to S3, signed in the `authorization` header.
 */
import * as AwsSignature from "@millrace/core/awsSignature"

/** Credentials of AWS, with the names that its SDKs and metadata services use. */
export interface Credentials extends AwsSignature.Credentials {
  /** The end of temporary credentials: a `Date`, or Unix time in milliseconds. Default: unknown. */
  readonly expiresAt?: Date | number | undefined
}

/** A request to sign. Paths are encoded, names of headers in lower case, and `host` is one of them. */
export interface Unsigned extends Omit<AwsSignature.Signed, "query"> {
  readonly query: ReadonlyArray<readonly [string, string]>
}

/** The headers of a signed request, without `host`, which the client sends; `now` is in Unix milliseconds. */
export const sign = (
  unsigned: Unsigned,
  credentials: Credentials,
  region: string,
  service: string,
  now: number
): Record<string, string> => {
  const { sessionToken } = credentials
  const scope = { region, service, now }
  const headers: Record<string, string> = {
    ...unsigned.headers,
    "x-amz-date": AwsSignature.stampOf(scope, credentials).time,
    "x-amz-content-sha256": unsigned.payload,
    ...(sessionToken === undefined ? {} : { "x-amz-security-token": AwsSignature.plain(sessionToken) })
  }
  const request = { ...unsigned, headers, query: AwsSignature.queryOf(unsigned.query) }
  const { host: _, ...sent } = headers
  return { ...sent, authorization: AwsSignature.authorizationOf(request, scope, credentials) }
}
