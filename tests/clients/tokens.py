"""Makes tokens by PyJWT and by Authlib, of the keys and claims on standard input, and writes them as JSON.

Input: {"keys": {ALGORITHM: PEM or secret}, "kid": {ALGORITHM: kid}, "claims": {...}}; output: {"PyJWT RS256": TOKEN, ...}.
"""

import json
import sys
import warnings

import jwt as pyjwt

with warnings.catch_warnings():
    # Authlib announces that its JOSE part will move.
    warnings.simplefilter("ignore")
    from authlib.jose import JsonWebToken

asked = json.load(sys.stdin)
tokens = {}
for algorithm, key in asked["keys"].items():
    header = {"alg": algorithm}
    if algorithm in asked["kid"]:
        header["kid"] = asked["kid"][algorithm]
    tokens[f"PyJWT {algorithm}"] = pyjwt.encode(asked["claims"], key, algorithm=algorithm, headers=header)
    signed = JsonWebToken([algorithm]).encode(header, asked["claims"], key)
    tokens[f"Authlib {algorithm}"] = signed.decode()
json.dump(tokens, sys.stdout)
