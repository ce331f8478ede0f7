"""Templates, styles and scripts of the pages; ``vendor`` holds other people's libraries with their licences."""
